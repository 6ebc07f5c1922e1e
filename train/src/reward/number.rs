//! Numbers as people and models write them.

/// The value of `text` if it is one number and nothing else: `1,234`, `-0.5`, `3/4`, `\frac{3}{4}`, `$12.50`, `40%`, `2e-3`.
pub fn parse(text: &str) -> Option<f64> {
    let text = plain(text);
    let text = text.trim().trim_end_matches(['.', ',']).trim();
    let (text, negative) = match text.strip_prefix('-') {
        Some(rest) => (rest.trim_start(), true),
        None => (text.strip_prefix('+').unwrap_or(text).trim_start(), false),
    };
    let text = text.strip_prefix('$').unwrap_or(text);
    let text = text.strip_suffix('%').map_or(text, str::trim_end);
    let value = match fraction(text) {
        Some((over, under)) => unsigned(over)? / unsigned(under).filter(|under| *under != 0.)?,
        None => unsigned(text)?,
    };
    Some(if negative { -value } else { value })
}

/// Whether two values are the same number: text and division round, and nothing else does.
pub fn same(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

/// The last number in `text`, wherever it stands.
pub fn last(text: &str) -> Option<f64> {
    let text = plain(text);
    let ends = text.char_indices().rev().filter(|(_, c)| c.is_ascii_digit() || *c == '}').map(|(i, _)| i + 1);
    for end in ends {
        // The longest stretch that ends here and is a number, but not one that begins inside a word or a number.
        let starts = text[..end].char_indices().map(|(i, _)| i);
        let starts = starts.filter(|&i| begins(&text, i) && end - i <= LONGEST);
        if let Some(value) = starts.filter_map(|start| parse(&text[start..end])).next() {
            return Some(value);
        }
    }
    None
}

/// Bytes that no number exceeds; bounds what [`last`] looks at.
const LONGEST: usize = 64;

/// Whether a number may begin at byte `i` of `text`: not within a word or another number, and not with the sign of a difference.
fn begins(text: &str, i: usize) -> bool {
    let mut from_here = text[i..].chars();
    let before = text[..i].chars().next_back();
    match from_here.next() {
        Some('-' | '+') => {
            let operand = text[..i].trim_end_matches(' ').chars().next_back();
            let difference = operand.is_some_and(|c| c.is_ascii_digit() || matches!(c, ')' | '}'));
            !difference && !before.is_some_and(char::is_alphanumeric) && from_here.next().is_some_and(|c| c != ' ')
        }
        Some('$' | '\\') => true,
        Some(c) if c.is_ascii_digit() || c == '.' => {
            !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | ',' | '/'))
        }
        _ => false,
    }
}

/// `text` with the signs that stand for plain ones, and without what LaTeX puts around numbers.
fn plain(text: &str) -> String {
    let text = text.replace(['\u{2212}', '\u{2013}'], "-").replace("\\$", "$").replace("\\%", "%");
    let text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("{,}", ",");
    ["\\!", "\\,", "\\;", "\\ "].iter().fold(text, |text, space| text.replace(space, ""))
}

/// The two sides of `a/b` or of `\frac{a}{b}`.
fn fraction(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix("\\frac") {
        let (over, under) = rest.trim_start().strip_prefix('{')?.split_once('}')?;
        return Some((over.trim(), under.trim_start().strip_prefix('{')?.strip_suffix('}')?.trim()));
    }
    let (over, under) = text.split_once('/')?;
    Some((over.trim(), under.trim()))
}

/// A number of digits, with commas between thousands, a point and an exponent.
fn unsigned(text: &str) -> Option<f64> {
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, Some(exponent)),
        None => (text, None),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let groups: Vec<&str> = whole.split(',').collect();
    let thousands =
        groups.len() == 1 || (groups[1..].iter().all(|g| g.len() == 3) && (1..=3).contains(&groups[0].len()));
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let whole: String = groups.concat();
    let exponent_fits = exponent.is_none_or(|e| !e.is_empty() && all_digits(e.strip_prefix(['-', '+']).unwrap_or(e)));
    if whole.len() + part.len() == 0 || !thousands || !all_digits(&whole) || !all_digits(part) || !exponent_fits {
        return None;
    }
    format!("{whole}.{part}e{}", exponent.unwrap_or("0")).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_they_are_written() {
        for (text, wanted) in [
            ("42", 42.),
            (" -7 ", -7.),
            ("\u{2212}7", -7.),
            ("- 7", -7.),
            ("+3", 3.),
            ("1,234,567", 1_234_567.),
            ("1{,}234", 1234.),
            ("0.25", 0.25),
            (".5", 0.5),
            ("3/4", 0.75),
            ("-3 / 4", -0.75),
            ("\\frac{3}{4}", 0.75),
            ("-\\dfrac{1}{8}", -0.125),
            ("$12.50", 12.5),
            ("40%", 40.),
            ("40\\%", 40.),
            ("2e-3", 0.002),
            ("007", 7.),
            ("12.", 12.),
        ] {
            assert_eq!(parse(text), Some(wanted), "{text}");
        }
        for text in ["", "-", "twelve", "1,23", "12,3456", "1/0", "1 2", "3x", "1.2.3", "x/2", "1e", "."] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_last_number_of_a_text() {
        for (text, wanted) in [
            ("3 + 4 = 7", Some(7.)),
            ("The answer is -12.", Some(-12.)),
            ("It costs $1,250.50, I think", Some(1250.5)),
            ("10-3", Some(3.)),
            ("10 - 3", Some(3.)),
            ("058\n-041", Some(-41.)),
            ("it is \u{2212}41.", Some(-41.)),
            ("so x = \\frac{3}{4}.", Some(0.75)),
            ("half is 1/2", Some(0.5)),
            ("by equation 3a", Some(3.)),
            ("in x2", None),
            ("none", None),
        ] {
            assert_eq!(last(text), wanted, "{text}");
        }
    }

    #[test]
    fn rounding_is_no_difference_and_anything_else_is() {
        assert!(same(0.1 + 0.2, 0.3) && same(0., 0.) && same(1. / 3., 0.333_333_333_333));
        assert!(!same(0.333, 1. / 3.) && !same(0., 1e-12) && !same(7., -7.));
    }
}
