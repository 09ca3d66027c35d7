//! The picture as SVG, for the server's pages: drawn by putting strings together, the same bytes for the
//! same machine, readable on light and dark screens and by screen readers.
//!
//! Sizes are whole pixels of a drawing 960 wide; browsers scale it. Every text of a machine goes through
//! [`Xml`].

use std::fmt::{self, Write as _};

use akene_protocol::inventory::Inventory;
use akene_protocol::issue::Issues;

use super::picture::{Paint, Part, Strip, disks, groups, widths};
use super::{broken, clean};
use crate::Plan;

const WIDTH: u64 = 960;
const MARGIN: u64 = 24;
/// Where bars begin: before them stands "before" or "after".
const BAR: u64 = 84;
const BAR_WIDTH: u64 = WIDTH - MARGIN - BAR;
const BAR_HEIGHT: u64 = 34;
/// Height of a line of text.
const LINE: u64 = 20;
/// Generous width of a character of the labels, so that they fit in every font.
const CHARACTER: u64 = 8;
/// Characters of a line of text across the drawing.
const COLUMNS: usize = 118;

/// Colours that black or white text is readable on, with a contrast of at least 4.5 : 1.
const STYLE: &str = "\
.akene-plan{font-family:system-ui,sans-serif;font-size:13px}.akene-plan .page{fill:#fff}.akene-plan text{fill:#1b1b1b}\
.akene-plan .head{font-size:16px;font-weight:600}.akene-plan .faint{fill:#555}.akene-plan .loss{fill:#a11}\
.akene-plan .part{stroke:#fff;stroke-width:1}.akene-plan .boot{fill:#9ec5fe}.akene-plan .system{fill:#a3cfbb}\
.akene-plan .files{fill:#dcb6e6}.akene-plan .swap{fill:#9eeaf9}.akene-plan .foreign{fill:#ffe69c}\
.akene-plan .free{fill:#e4e7ea}.akene-plan .gone{stroke:#a11;stroke-width:2}\
@media (prefers-color-scheme:dark){.akene-plan .page{fill:#1b1b1b}.akene-plan text{fill:#f4f4f4}\
.akene-plan .faint{fill:#bbb}.akene-plan .loss{fill:#ff9c9c}.akene-plan .part{stroke:#1b1b1b}\
.akene-plan .boot{fill:#0a4fb4}.akene-plan .system{fill:#126040}.akene-plan .files{fill:#752a80}\
.akene-plan .swap{fill:#066478}.akene-plan .foreign{fill:#775a03}.akene-plan .free{fill:#3a4046}\
.akene-plan .gone{stroke:#ff9c9c}}";

/// A text inside XML: what means something there is escaped, what may not be there at all replaced.
struct Xml<T>(T);

impl<T: fmt::Display> fmt::Display for Xml<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.to_string().chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// The machine's disks before and after a plan; where there is none, as they are and why.
pub fn svg(inventory: &Inventory, plan: Result<&Plan, &Issues>) -> String {
    let disks = disks(inventory, plan.ok());
    let groups = groups(inventory, plan.ok());
    let mut drawing = Drawing { body: String::new(), y: MARGIN };
    if disks.is_empty() {
        drawing.line("", MARGIN, "This computer has no disk.");
    }
    for strip in disks.iter().chain(&groups) {
        drawing.strip(strip);
    }
    match plan {
        Ok(plan) => {
            for lost in super::destroyed(plan).lines() {
                drawing.paragraph(if plan.destroys.is_empty() { "" } else { "loss" }, lost);
            }
            for note in &plan.notes {
                drawing.paragraph("faint", &clean(&format!("{note}.")));
            }
        }
        Err(issues) => {
            for issue in &issues.0 {
                drawing.paragraph("loss", &clean(&format!("{}.", issue.message)));
                drawing.paragraph("faint", &clean(&format!("To do: {}.", issue.next)));
            }
        }
    }
    drawing.legend();
    let height = drawing.y + MARGIN;
    let said: Vec<String> = disks.iter().chain(&groups).map(spoken).collect();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"akene-plan\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-labelledby=\"akene-plan-title akene-plan-desc\">\n\
         <title id=\"akene-plan-title\">{title}</title>\n<desc id=\"akene-plan-desc\">{desc}</desc>\n\
         <style>{STYLE}</style>\n<rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\n{body}</svg>\n",
        title = match plan {
            Ok(_) => "The disks of this computer before and after the installation",
            Err(_) => "The disks of this computer; it cannot be installed",
        },
        desc = Xml(said.join(" ")),
        body = drawing.body,
    )
}

/// A disk in words, for those who do not see the picture.
fn spoken(strip: &Strip) -> String {
    let list = |parts: &[Part]| {
        let all: Vec<&str> = parts.iter().map(|p| p.detail.as_str()).filter(|d| !d.is_empty()).collect();
        if all.is_empty() { "nothing".to_owned() } else { all.join("; ") }
    };
    let before =
        if strip.before.is_empty() { String::new() } else { format!(" Before: {}.", list(&strip.before)) };
    let after = strip.after.as_ref().map(|after| format!(" After: {}.", list(after))).unwrap_or_default();
    format!("{} {}.{before}{after}", strip.title, strip.fate)
}

fn class(paint: Paint) -> &'static str {
    match paint {
        Paint::Boot => "boot",
        Paint::System => "system",
        Paint::Files => "files",
        Paint::Swap => "swap",
        Paint::Foreign => "foreign",
        Paint::Free => "free",
    }
}

/// What is drawn so far, from the top.
struct Drawing {
    body: String,
    y: u64,
}

impl Drawing {
    fn push(&mut self, element: fmt::Arguments<'_>) {
        self.body += &format!("{element}\n");
    }

    /// A line of text whose top is at the present height.
    fn line(&mut self, class: &str, x: u64, text: &str) {
        let y = self.y + 14;
        self.push(format_args!("<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{}</text>", Xml(text)));
        self.y += LINE;
    }

    fn paragraph(&mut self, class: &str, text: &str) {
        for (i, part) in broken(text, COLUMNS).iter().enumerate() {
            self.line(class, if i == 0 { MARGIN } else { MARGIN + 16 }, part);
        }
    }

    fn strip(&mut self, strip: &Strip) {
        self.line("head", MARGIN, &cut(&strip.title, 90));
        self.line("faint", MARGIN, &cut(&strip.fate, COLUMNS));
        if !strip.before.is_empty() {
            self.bar(if strip.after.is_some() { "before" } else { "now" }, &strip.before);
        }
        if let Some(after) = &strip.after {
            self.bar("after", after);
        }
        self.list(strip.after.as_ref().unwrap_or(&strip.before));
        self.y += LINE;
    }

    fn bar(&mut self, title: &str, parts: &[Part]) {
        let (top, middle) = (self.y, self.y + BAR_HEIGHT / 2 + 5);
        self.push(format_args!("<text class=\"faint\" x=\"{MARGIN}\" y=\"{middle}\">{title}</text>"));
        let sizes: Vec<u64> = parts.iter().map(|p| p.size.0).collect();
        // Every part is seen; 128 of them still fit.
        let least = (BAR_WIDTH / parts.len().max(1) as u64).clamp(2, 14);
        let widths = widths(&sizes, &vec![least; parts.len()], BAR_WIDTH);
        let mut x = BAR;
        for (part, width) in parts.iter().zip(widths) {
            let gone = if part.lost { " gone" } else { "" };
            let detail =
                if part.detail.is_empty() { format!("free, {}", part.size) } else { part.detail.clone() };
            self.push(format_args!(
                "<g><title>{}</title><rect class=\"part {}{gone}\" x=\"{x}\" y=\"{top}\" width=\"{width}\" \
                 height=\"{BAR_HEIGHT}\"/>",
                Xml(detail),
                class(part.paint)
            ));
            // A part that is lost is crossed out: colour alone would not tell everybody.
            if part.lost {
                let (right, bottom) = (x + width, top + BAR_HEIGHT);
                self.push(format_args!("<path class=\"gone\" d=\"M{x} {bottom}L{right} {top}\"/>"));
            }
            let fits = |text: &&str| text.chars().count() as u64 * CHARACTER + 4 <= width;
            if let Some(text) = [part.label.as_str(), part.short.as_str()].iter().find(|t| fits(t)) {
                let centre = x + width / 2;
                self.push(format_args!(
                    "<text x=\"{centre}\" y=\"{middle}\" text-anchor=\"middle\">{}</text>",
                    Xml(text)
                ));
            }
            self.push(format_args!("</g>"));
            x += width;
        }
        self.y += BAR_HEIGHT + 6;
    }

    /// Every part in words, in two columns.
    fn list(&mut self, parts: &[Part]) {
        let named: Vec<&Part> = parts.iter().filter(|p| !p.detail.is_empty()).collect();
        let rows = named.len().div_ceil(2);
        let half = (WIDTH - MARGIN - BAR) / 2;
        for (i, part) in named.iter().enumerate() {
            let (x, y) = (BAR + (i / rows) as u64 * half, self.y + (i % rows) as u64 * LINE);
            self.swatch(part.paint, x, y);
            let text = cut(&part.detail, (half as usize - 18) / 7);
            self.push(format_args!("<text x=\"{}\" y=\"{}\">{}</text>", x + 18, y + 14, Xml(text)));
        }
        self.y += rows as u64 * LINE;
    }

    fn swatch(&mut self, paint: Paint, x: u64, y: u64) {
        let class = class(paint);
        self.push(format_args!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{}\" width=\"12\" height=\"12\"/>",
            y + 3
        ));
    }

    fn legend(&mut self) {
        self.y += LINE / 2;
        let names = [
            (Paint::Boot, "starting"),
            (Paint::System, "system"),
            (Paint::Files, "people's files"),
            (Paint::Swap, "swap"),
            (Paint::Foreign, "not ours"),
            (Paint::Free, "free"),
        ];
        for (i, (paint, name)) in names.into_iter().enumerate() {
            let x = MARGIN + i as u64 * 130;
            self.swatch(paint, x, self.y);
            let y = self.y + 14;
            self.push(format_args!("<text class=\"faint\" x=\"{}\" y=\"{y}\">{}</text>", x + 18, Xml(name)));
        }
        let (x, y) = (MARGIN + 6 * 130, self.y + 14);
        self.push(format_args!("<text class=\"loss\" x=\"{x}\" y=\"{y}\">crossed out: lost</text>"));
        self.y += LINE;
    }
}

fn cut(text: &str, most: usize) -> String {
    match text.chars().count() > most {
        true => text.chars().take(most - 1).chain(std::iter::once('…')).collect(),
        false => text.to_owned(),
    }
}
