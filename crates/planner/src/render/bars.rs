//! The picture as bars of characters, for terminals and logs.

use akene_protocol::Bytes;

use super::picture::{Paint, Part, Strip, widths};
use super::{Style, line};

/// Columns before a bar: two blank ones, the title, one blank.
const INDENT: usize = 10;

/// The bars of a disk or group, before and after, to the same scale; `word` translates what is ours in them.
pub(super) fn bars(strip: &Strip, style: Style, word: &dyn Fn(&str) -> String) -> String {
    let mut out = String::new();
    if !strip.before.is_empty() {
        let title = if strip.after.is_some() { "before" } else { "now" };
        line(&mut out, &bar(&word(title), &said(&strip.before, word), style));
    }
    if let Some(after) = &strip.after {
        line(&mut out, &bar(&word("after"), &said(after, word), style));
    }
    out
}

/// The parts with their labels in another language.
fn said(parts: &[Part], word: &dyn Fn(&str) -> String) -> Vec<Part> {
    parts.iter().map(|part| Part { label: word(&part.label), ..part.clone() }).collect()
}

/// Background and the foreground that can be read on it.
fn colours(paint: Paint) -> &'static str {
    match paint {
        Paint::Boot => "97;44",
        Paint::System => "30;42",
        Paint::Files => "97;45",
        Paint::Swap => "30;46",
        Paint::Foreign => "30;43",
        Paint::Free => "97;100",
    }
}

fn bar(title: &str, parts: &[Part], style: Style) -> String {
    let columns = style.width.saturating_sub(INDENT + 1).max(24);
    let cells = cells(parts, columns);
    let mut out = format!("  {title:<0$}", INDENT - 3);
    out.push(if style.colour { ' ' } else { '|' });
    for Cell { text, width, paint } in cells {
        // The last column of a cell parts it from the next.
        let width = width - 1;
        if style.colour {
            out.push_str(&format!("\x1b[{}m{text:^width$}\x1b[0m ", colours(paint)));
        } else {
            out.push_str(&format!("{text:^width$}|"));
        }
    }
    out
}

struct Cell {
    text: String,
    width: usize,
    paint: Paint,
}

/// A cell for each part, wide enough for its name; where there are too many, the smallest show only their
/// number, and in the end neighbours share a cell.
fn cells(parts: &[Part], columns: usize) -> Vec<Cell> {
    let merged = merge(parts, columns / 3);
    let mut texts: Vec<String> = merged.iter().map(|p| cut(&p.label, 16)).collect();
    let needs = |texts: &[String]| texts.iter().map(|t| t.chars().count() as u64 + 1).collect::<Vec<_>>();
    let mut smallest: Vec<usize> = (0..merged.len()).collect();
    smallest.sort_by_key(|i| merged[*i].size);
    for i in smallest {
        if needs(&texts).iter().sum::<u64>() <= columns as u64 {
            break;
        }
        texts[i] = cut(&merged[i].short, 2);
    }
    let sizes: Vec<u64> = merged.iter().map(|p| p.size.0).collect();
    let widths = widths(&sizes, &needs(&texts), columns as u64);
    let cells = merged.iter().zip(texts).zip(widths);
    cells.map(|((part, text), width)| Cell { text, width: width as usize, paint: part.paint }).collect()
}

fn cut(text: &str, most: usize) -> String {
    match text.chars().count() > most {
        true => text.chars().take(most - 1).chain(std::iter::once('~')).collect(),
        false => text.to_owned(),
    }
}

/// Joins the smallest neighbours until at most `most` are left.
fn merge(parts: &[Part], most: usize) -> Vec<Part> {
    let mut parts = parts.to_vec();
    while parts.len() > most.max(1) {
        let pair = |i: &usize| parts[*i].size.0.saturating_add(parts[i + 1].size.0);
        let Some(i) = (0..parts.len() - 1).min_by_key(pair) else { break };
        let second = parts.remove(i + 1);
        let first = &mut parts[i];
        first.size = Bytes(first.size.0.saturating_add(second.size.0));
        (first.short, first.label) = ("..".into(), "..".into());
        if first.paint != second.paint {
            first.paint = Paint::Foreign;
        }
    }
    parts
}
