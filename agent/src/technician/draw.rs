//! From the state of a dialog to a frame. Pure: the same dialog gives the same frame, on every size of terminal.
//!
//! A page is made of lines first ([`Body`]), for the width there is, then laid out: a head, the lines (scrolled so that what is chosen is
//! in sight), a foot that is always there (field and remark), and the keys. Where there is room, a frame around it.
//!
//! Emphasis is bold and reverse, and never by that alone: a mark before the line says the same on a terminal that shows neither.

use akene_protocol::{Issue, Language};
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::symbols::border;
use ratatui::widgets::{Block, Widget};

use super::dialog::{Dialog, Matter, Page};
use super::outlook::Outlook;
use super::words::Text;
use crate::report::words as reasons;

/// What a terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A Linux console: code page 437.
    Screen,
    /// A serial line: ASCII.
    Serial,
}

/// Lines of text are not made longer than this: the eye would lose them.
const WIDEST: usize = 100;

/// From this height on there is room for a frame.
const FRAMED: u16 = 16;

/// Less is of no use.
const LEAST: (u16, u16) = (24, 6);

/// How a line is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Weight {
    #[default]
    Plain,
    Bold,
    /// Chosen.
    Marked,
}

/// A line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Row {
    text: String,
    weight: Weight,
}

/// A page as lines of a certain width.
#[derive(Default)]
struct Body {
    title: Option<Text>,
    rows: Vec<Row>,
    /// The row that must be in sight.
    focus: Option<usize>,
    /// Always in sight, below the rows.
    foot: Vec<Row>,
    /// Column of the foot's last line where the cursor stands.
    cursor: Option<usize>,
    width: usize,
    language: Language,
}

/// Draws a dialog. Gives back how many lines can be scrolled off at the top at most.
pub fn draw(dialog: &Dialog, frame: &mut Frame<'_>, look: Look) -> usize {
    let area = frame.area();
    let language = dialog.language();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        put(frame.buffer_mut(), area, 0, Text::Tiny.get(language), Weight::Plain);
        plain(frame.buffer_mut(), look);
        return 0;
    }
    head(dialog, frame.buffer_mut(), area);
    put(frame.buffer_mut(), area, area.height - 1, &format!(" {}", keys(dialog).get(language)), Weight::Bold);
    let mut middle = Rect { y: area.y + 1, height: area.height - 2, ..area };
    if area.height >= FRAMED {
        let set = if look == Look::Serial { ASCII } else { border::PLAIN };
        Block::bordered().border_set(set).render(middle, frame.buffer_mut());
        middle =
            Rect { x: middle.x + 2, y: middle.y + 1, width: middle.width - 4, height: middle.height - 2 };
    } else {
        middle = Rect { x: middle.x + 1, width: middle.width - 2, ..middle };
    }
    let body = body(dialog, usize::from(middle.width).min(WIDEST));
    let (most, cursor) = lay_out(&body, dialog.scroll, frame.buffer_mut(), middle);
    if let Some(position) = cursor {
        frame.set_cursor_position(position);
    }
    plain(frame.buffer_mut(), look);
    most
}

/// A frame that every terminal shows.
const ASCII: border::Set<'static> = border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

fn head(dialog: &Dialog, buffer: &mut Buffer, area: Rect) {
    let left = format!(" Akène  {}", dialog.site);
    let step = dialog.step().map(|(at, of)| format!("{} {at}/{of} ", Text::Step.get(dialog.language())));
    let step = step.unwrap_or_default();
    let room = usize::from(area.width).saturating_sub(step.chars().count() + 1);
    let left: String = left.chars().take(room).collect();
    let line = format!("{left:room$} {step}");
    put(buffer, area, 0, &line, Weight::Marked);
}

fn keys(dialog: &Dialog) -> Text {
    match dialog.page() {
        Page::Help => Text::KeysHelp,
        Page::Plan => Text::KeysRead,
        _ if dialog.has_field() => Text::KeysInput,
        _ => Text::KeysList,
    }
}

/// One line of an area, as wide as that.
fn put(buffer: &mut Buffer, area: Rect, row: u16, text: &str, weight: Weight) {
    if row >= area.height {
        return;
    }
    let style = Style::new().add_modifier(match weight {
        Weight::Plain => Modifier::empty(),
        Weight::Bold => Modifier::BOLD,
        Weight::Marked => Modifier::REVERSED,
    });
    buffer.set_stringn(area.x, area.y + row, text, usize::from(area.width), style);
}

/// Lays a body into an area. Gives back how far it can be scrolled, and where the cursor stands.
fn lay_out(body: &Body, scroll: usize, buffer: &mut Buffer, area: Rect) -> (usize, Option<(u16, u16)>) {
    let height = usize::from(area.height);
    // With a blank line below it where lines are not scarce.
    let title = usize::from(body.title.is_some()) * if height >= 14 { 2 } else { 1 };
    // The foot is never cut at its end, where typing happens; it has blank lines only where there is room for more than it.
    let tight = body.foot.len() + 4 > height - title;
    let foot: Vec<&Row> = body.foot.iter().filter(|row| !tight || !row.text.is_empty()).collect();
    let foot = &foot[foot.len().saturating_sub(height - title)..];
    // Directly below the rows, if all of them fit.
    let room = (height - title - foot.len()).min(body.rows.len());
    let most = body.rows.len().saturating_sub(room);
    let mut from = scroll.min(most);
    if let Some(focus) = body.focus {
        // A line more on both sides, where the hints may stand.
        let beside = usize::from(room >= 3);
        from =
            from.max((focus + 1 + beside).saturating_sub(room)).min(focus.saturating_sub(beside)).min(most);
    }
    if let Some(title) = body.title {
        put(buffer, area, 0, title.get(body.language), Weight::Bold);
    }
    let shown = body.rows.iter().skip(from).take(room);
    for (i, row) in shown.enumerate() {
        put(buffer, area, (title + i) as u16, &row.text, row.weight);
    }
    let hint = |buffer: &mut Buffer, row: usize, text: Text| {
        let text = text.get(body.language);
        let blank = Rect { y: area.y + row as u16, height: 1, ..area };
        put(buffer, blank, 0, &" ".repeat(usize::from(area.width)), Weight::Plain);
        put(buffer, blank, 0, text, Weight::Bold);
    };
    if room >= 3 && from + room < body.rows.len() {
        hint(buffer, title + room - 1, Text::Below);
    }
    if room >= 3 && from > 0 {
        hint(buffer, title, Text::Above);
    }
    for (i, row) in foot.iter().enumerate() {
        put(buffer, area, (title + room + i) as u16, &row.text, row.weight);
    }
    // The field is the last line of the foot.
    let cursor = body.cursor.map(|column| {
        let column = column.min(usize::from(area.width).saturating_sub(1));
        (area.x + column as u16, area.y + (title + room + foot.len()).saturating_sub(1) as u16)
    });
    (most, cursor)
}

/// Leaves only what the terminal can show. What comes from disks and labels may be anything.
fn plain(buffer: &mut Buffer, look: Look) {
    const CP437: &str = "çéâàêëèïîÉôûùÇüäÄÅåöÖÜÿáíóúñÑ£°±·²─│┌┐└┘├┤┬┴┼";
    for cell in &mut buffer.content {
        let symbol = cell.symbol();
        if symbol.len() == 1 || look == Look::Screen && CP437.contains(symbol) && !symbol.is_empty() {
            continue;
        }
        let mut chars = symbol.chars();
        let (first, alone) = (chars.next().unwrap_or(' '), chars.next().is_none());
        let text = if alone { reasons::ascii(first.encode_utf8(&mut [0; 4])) } else { "?".into() };
        cell.set_symbol(&text);
    }
}

impl Body {
    /// A paragraph, broken into lines; the second and further begin below its first word.
    fn paragraph(&mut self, head: &str, text: &str, weight: Weight) {
        let rows = broken(head, text, self.width);
        self.rows.extend(rows.into_iter().map(|text| Row { text, weight }));
    }

    fn text(&mut self, text: Text) {
        self.paragraph("", text.get(self.language), Weight::Plain);
    }

    fn blank(&mut self) {
        self.rows.push(Row::default());
    }

    fn remark(&mut self, text: Text) {
        let rows = broken("! ", text.get(self.language), self.width);
        self.foot.extend(rows.into_iter().map(|text| Row { text, weight: Weight::Bold }));
    }

    /// The field, as the last line of the foot: where typing happens is always in sight.
    fn field(&mut self, label: &str, input: &str, room: usize) {
        let label_width = label.chars().count() + 2;
        let room = room.min(self.width.saturating_sub(label_width + 2)).max(4);
        let skip = input.chars().count().saturating_sub(room - 1);
        let shown: String = input.chars().skip(skip).collect();
        self.foot.push(Row::default());
        self.cursor = Some(label_width + shown.chars().count());
        let text = format!("{label} [{shown:room$}]");
        self.foot.push(Row { text, weight: Weight::Plain });
    }

    /// The lines of a list, each with what is said below it.
    fn list(&mut self, options: &[String], cursor: usize, below: impl Fn(usize) -> Option<String>) {
        for (i, option) in options.iter().enumerate() {
            let weight = if i == cursor { Weight::Marked } else { Weight::Plain };
            if i == cursor {
                self.focus = Some(self.rows.len());
            }
            self.paragraph(if i == cursor { "> " } else { "  " }, option, weight);
            if let Some(text) = below(i) {
                self.paragraph("    ", &text, Weight::Plain);
            }
        }
    }
}

/// Breaks a text into lines of at most `width` columns; `head` stands before the first, blanks before the others. A word that is
/// longer than a line is cut.
fn broken(head: &str, text: &str, width: usize) -> Vec<String> {
    let indent = head.chars().count();
    let room = width.saturating_sub(indent).max(8);
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let line = lines.last_mut().expect("it begins with one and only grows");
            let used = line.chars().count();
            let blank = usize::from(used > 0);
            if used + blank + word.len() <= room {
                line.push_str(&" ".repeat(blank));
                line.extend(word);
                break;
            }
            if used > 0 {
                lines.push(String::new());
                continue;
            }
            line.extend(word.drain(..room));
            lines.push(String::new());
        }
    }
    if lines.len() > 1 && lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    let before = |i: usize| if i == 0 { head.to_owned() } else { " ".repeat(indent) };
    lines.iter().enumerate().map(|(i, line)| format!("{}{line}", before(i))).collect()
}

/// The page as lines.
fn body(dialog: &Dialog, width: usize) -> Body {
    let language = dialog.language();
    let mut body = Body { width, language, ..Body::default() };
    body.title = Some(title(dialog.page()));
    if let Some(remark) = dialog.remark {
        body.foot.push(Row::default());
        body.remark(remark);
    }
    let options = dialog.options();
    let nothing = |_: usize| None;
    match (dialog.page(), &dialog.matter) {
        (Page::Language, _) => {
            body.text(Text::LanguageText);
            body.blank();
            body.list(&options, dialog.cursor, nothing);
        }
        (Page::Association, _) => {
            body.text(Text::AssociationText);
            body.blank();
            body.list(&options, dialog.cursor, nothing);
        }
        (Page::AssociationTyped, _) => {
            body.text(Text::AssociationTyped);
            body.field(Text::AssociationField.get(language), &dialog.input, 40);
        }
        (Page::Profile, _) => {
            body.text(Text::ProfileText);
            body.blank();
            let size = |i: usize| Some(format!("{} {}", dialog.size_of(i)?, Text::ProfileSize.get(language)));
            body.list(&options, dialog.cursor, size);
        }
        (Page::Number, Matter::Choose { known, machine, .. }) => {
            if !machine.is_empty() {
                body.paragraph("", &format!("{} {machine}", Text::Machine.get(language)), Weight::Plain);
                body.blank();
            }
            body.text(Text::NumberText);
            match known {
                Some(known) => {
                    let text = format!("{} {known}", Text::NumberKnown.get(language));
                    body.paragraph("", &text, Weight::Plain);
                }
                None => body.text(Text::NumberNone),
            }
            body.field(Text::NumberField.get(language), &dialog.input, 16);
        }
        (Page::Unlabelled, _) => {
            body.text(Text::UnlabelledText);
            body.blank();
            body.list(&options, dialog.cursor, nothing);
        }
        (Page::Two(_), _) => {
            body.text(Text::TwoText);
            body.blank();
            body.list(&options, dialog.cursor, nothing);
        }
        (Page::Plan, Matter::Confirm(outlook)) => plan(&mut body, outlook),
        (Page::Confirm, Matter::Confirm(outlook)) => confirm(&mut body, dialog, outlook),
        (Page::Refused, Matter::Tell(issues)) => refused(&mut body, dialog, issues, &options),
        (Page::Leave, matter) => {
            body.text(match matter {
                Matter::Tell(_) => Text::LeaveAfter,
                _ => Text::LeaveText,
            });
            body.blank();
            body.list(&options, dialog.cursor, nothing);
        }
        (Page::Help, _) => {
            body.title = Some(title(dialog.explained()));
            body.text(help(dialog.explained()));
        }
        // A page that its matter does not have.
        _ => {}
    }
    body
}

fn title(page: &Page) -> Text {
    match page {
        Page::Language => Text::LanguageTitle,
        Page::Association | Page::AssociationTyped => Text::AssociationTitle,
        Page::Profile => Text::ProfileTitle,
        Page::Number => Text::NumberTitle,
        Page::Unlabelled => Text::UnlabelledTitle,
        Page::Two(_) => Text::TwoTitle,
        Page::Plan => Text::PlanTitle,
        Page::Confirm => Text::ConfirmTitle,
        Page::Refused => Text::RefusedTitle,
        Page::Leave => Text::LeaveTitle,
        Page::Help => Text::KeysHelp,
    }
}

fn help(page: &Page) -> Text {
    match page {
        Page::Language => Text::LanguageHelp,
        Page::Association | Page::AssociationTyped => Text::AssociationHelp,
        Page::Profile => Text::ProfileHelp,
        Page::Number | Page::Unlabelled | Page::Two(_) => Text::NumberHelp,
        Page::Plan => Text::PlanHelp,
        Page::Confirm => Text::ConfirmHelp,
        Page::Refused => Text::RefusedHelp,
        Page::Leave | Page::Help => Text::LeaveText,
    }
}

/// The whole plan; what is lost is said once more before the word is typed.
fn plan(body: &mut Body, outlook: &Outlook) {
    let language = body.language;
    let what = format!(
        "{} {}. {}",
        Text::PlanProfile.get(language),
        outlook.profile,
        Text::PlanNothingYet.get(language)
    );
    body.paragraph("", &what, Weight::Plain);
    for warning in outlook.warnings(language) {
        body.paragraph("! ", &warning.text, Weight::Bold);
    }
    body.blank();
    for picture in outlook.pictures(language, body.width) {
        body.paragraph("", &picture.title, Weight::Plain);
        body.rows.extend(picture.bars.into_iter().map(|text| Row { text, weight: Weight::Plain }));
        body.blank();
    }
    losses(body, outlook, Text::Lost, Text::NothingLost);
    let kept = outlook.kept(language);
    if !kept.is_empty() {
        body.blank();
        body.text(Text::Stays);
        kept.iter().for_each(|line| body.paragraph("  ", line, Weight::Plain));
    }
}

fn losses(body: &mut Body, outlook: &Outlook, some: Text, none: Text) {
    if !outlook.loses() {
        return body.text(none);
    }
    body.paragraph("", some.get(body.language), Weight::Bold);
    for line in outlook.lost(body.language) {
        body.paragraph("  ", &line, Weight::Plain);
    }
}

fn confirm(body: &mut Body, dialog: &Dialog, outlook: &Outlook) {
    losses(body, outlook, Text::ConfirmLost, Text::ConfirmNothing);
    for warning in outlook.warnings(body.language).iter().filter(|warning| warning.grave) {
        body.paragraph("! ", &warning.text, Weight::Bold);
    }
    body.foot.push(Row::default());
    let ask = format!("{} {}", Text::ConfirmType.get(body.language), dialog.word());
    let ask = broken("", &ask, body.width);
    body.foot.extend(ask.into_iter().map(|text| Row { text, weight: Weight::Bold }));
    body.field(Text::ConfirmField.get(body.language), &dialog.input, 12);
}

/// All reasons; what can be done stands in the foot, so that reasons may be as many as they like.
fn refused(body: &mut Body, dialog: &Dialog, issues: &[Issue], options: &[String]) {
    let say = |text: Text| text.get(dialog.language());
    for issue in issues {
        let about = if issue.path.is_empty() { String::new() } else { format!("{}: ", issue.path) };
        match reasons::reason(issue, dialog.language()) {
            Some((what, next)) => {
                body.paragraph("- ", &sentence(&format!("{about}{what}.")), Weight::Bold);
                body.paragraph("  ", &format!("{} {next}.", say(Text::ToDo)), Weight::Plain);
                body.paragraph("  ", &format!("{} {}", say(Text::Detail), issue.message), Weight::Plain);
            }
            None => {
                // It says itself what it is about.
                let about = if issue.message.starts_with(&issue.path) { "" } else { about.as_str() };
                body.paragraph("- ", &sentence(&format!("{about}{}.", issue.message)), Weight::Bold);
                if !issue.next.is_empty() {
                    body.paragraph("  ", &format!("{} {}.", say(Text::ToDo), issue.next), Weight::Plain);
                }
            }
        }
    }
    let codes: Vec<&str> = issues.iter().take(4).map(|issue| issue.code.as_str()).collect();
    body.foot.push(Row::default());
    let phone = broken("", &format!("{} {}", say(Text::Phone), codes.join(", ")), body.width);
    body.foot.extend(phone.into_iter().map(|text| Row { text, weight: Weight::Plain }));
    for (i, option) in options.iter().enumerate() {
        let (mark, weight) = if i == dialog.cursor { (">", Weight::Marked) } else { (" ", Weight::Plain) };
        body.foot.push(Row { text: format!("{mark} {option}"), weight });
    }
}

/// With a capital letter, unless it begins with the name of a device.
fn sentence(text: &str) -> String {
    let name =
        text.split([' ', ':']).next().is_some_and(|w| w.starts_with("sd") || w.contains(char::is_numeric));
    match text.chars().next().filter(|c| c.is_ascii_lowercase() && !name) {
        Some(first) => format!("{}{}", first.to_ascii_uppercase(), &text[1..]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_broken_below_its_head() {
        assert_eq!(broken("- ", "one two three", 9), ["- one two", "  three"]);
        assert_eq!(broken("", "", 20), [""]);
        assert_eq!(broken("", "abcdefghijkl m", 8), ["abcdefgh", "ijkl m"]);
    }

    proptest! {
        #[test]
        fn no_line_is_too_long_and_no_letter_is_lost(text in "[a-zé ]{0,200}", width in 10usize..60) {
            let lines = broken("- ", &text, width);
            prop_assert!(lines.iter().all(|line| line.chars().count() <= width.max(10)));
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&lines.concat()), letters(&format!("- {text}")));
        }
    }
}
