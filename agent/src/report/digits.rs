//! Digits large enough to be read from across a room, and on a photo of a bad screen.

/// Lines of a large digit.
pub(super) const HEIGHT: usize = 5;

/// Digits 0 to 9 and the hyphen, five columns wide.
const GLYPHS: [[&str; HEIGHT]; 11] = [
    ["#####", "#   #", "#   #", "#   #", "#####"],
    ["  #  ", " ##  ", "  #  ", "  #  ", "#####"],
    ["#####", "    #", "#####", "#    ", "#####"],
    ["#####", "    #", " ####", "    #", "#####"],
    ["#   #", "#   #", "#####", "    #", "    #"],
    ["#####", "#    ", "#####", "    #", "#####"],
    ["#####", "#    ", "#####", "#   #", "#####"],
    ["#####", "    #", "   # ", "  #  ", "  #  "],
    ["#####", "#   #", "#####", "#   #", "#####"],
    ["#####", "#   #", "#####", "    #", "#####"],
    ["     ", "     ", " ### ", "     ", "     "],
];

/// The lines of `text`, which is made of digits and hyphens; anything else is left out.
pub(super) fn large(text: &str) -> [String; HEIGHT] {
    let mut lines: [String; HEIGHT] = Default::default();
    for c in text.chars() {
        let glyph = match c {
            '-' => &GLYPHS[10],
            _ => match c.to_digit(10) {
                Some(digit) => &GLYPHS[digit as usize],
                None => continue,
            },
        };
        for (line, part) in lines.iter_mut().zip(glyph) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            line.push_str(part);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_glyph_has_the_same_size_and_no_two_are_alike() {
        for (i, glyph) in GLYPHS.iter().enumerate() {
            assert!(glyph.iter().all(|line| line.len() == 5), "{i}");
            assert!(GLYPHS.iter().filter(|other| *other == glyph).count() == 1, "{i}");
        }
    }

    #[test]
    fn a_number_is_drawn_side_by_side() {
        assert_eq!(
            large("4-1").join("\n"),
            "#   #           #  \n#   #          ##  \n#####   ###     #  \n    #           #  \n    #         #####"
        );
    }
}
