//! `LIKE` patterns, compiled. Matching is by characters, as in a UTF-8 database, and takes no more
//! than the pattern's length times the text's.

use crate::{Problem, limits};

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pattern {
    parts: Vec<Part>,
}

/// One element of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    /// This character.
    Char(char),
    /// `_`: any one character.
    One,
    /// `%`: any characters, or none.
    Many,
}

/// What stands before a character that is meant literally, unless the filter says otherwise.
pub(super) const ESCAPE: char = '\\';

impl Pattern {
    /// Reads a pattern in which `escape`, if there is one, makes the next character literal.
    pub(super) fn parse(text: &str, escape: Option<char>) -> Result<Self, Problem> {
        if text.len() > limits::PATTERN_BYTES_MAX {
            let max = limits::PATTERN_BYTES_MAX;
            return Err(Problem::TooLarge {
                what: "a LIKE pattern of too many bytes",
                max,
            });
        }
        let mut parts = Vec::new();
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            parts.push(match char {
                char if Some(char) == escape => Part::Char(chars.next().ok_or_else(|| {
                    Problem::Type(format!(
                        "a LIKE pattern must not end with its escape {char:?}"
                    ))
                })?),
                '%' => Part::Many,
                '_' => Part::One,
                char => Part::Char(char),
            });
        }
        parts.dedup_by(|next, held| *next == Part::Many && *held == Part::Many);
        Ok(Self { parts })
    }

    /// Whether `text` matches. Where a part does not fit, it is enough to go back to the last `%`
    /// and let that one swallow a character more.
    pub(super) fn matches(&self, text: &str) -> bool {
        let (mut text, mut parts) = (text.chars(), self.parts.as_slice());
        let mut last_many = None;
        loop {
            let mut ahead = text.clone();
            let fits = match (parts.split_first(), ahead.next()) {
                (Some((Part::Many, rest)), _) => {
                    last_many = Some((text.clone(), rest));
                    parts = rest;
                    continue;
                }
                (None, None) => return true,
                (Some((Part::One, rest)), Some(_)) => Some(rest),
                (Some((Part::Char(wanted), rest)), Some(char)) if *wanted == char => Some(rest),
                _ => None,
            };
            match (fits, &mut last_many) {
                (Some(rest), _) => (text, parts) = (ahead, rest),
                (None, Some((swallowed, rest))) => {
                    if swallowed.next().is_none() {
                        return false;
                    }
                    (text, parts) = (swallowed.clone(), rest);
                }
                (None, None) => return false,
            }
        }
    }

    /// The pattern for `LIKE` with [`ESCAPE`].
    pub(super) fn to_like(&self) -> String {
        self.render('_', '%', |char, out| {
            if matches!(char, '%' | '_' | ESCAPE) {
                out.push(ESCAPE);
            }
            out.push(char);
        })
    }

    /// The pattern for SQLite's `GLOB`, which unlike its `LIKE` minds the case.
    pub(super) fn to_glob(&self) -> String {
        self.render('?', '*', |char, out| match char {
            '*' | '?' | '[' => out.extend(['[', char, ']']),
            char => out.push(char),
        })
    }

    fn render(&self, one: char, many: char, literal: impl Fn(char, &mut String)) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::One => out.push(one),
                Part::Many => out.push(many),
                Part::Char(char) => literal(*char, &mut out),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_postgres() {
        for (pattern, text, expect) in [
            ("", "", true),
            ("", "a", false),
            ("%", "", true),
            ("a%", "abc", true),
            ("%c", "abc", true),
            ("%b%", "abc", true),
            ("a%c%e", "abcde", true),
            ("a%c%f", "abcde", false),
            ("_", "\u{1F30A}", true),
            ("_", "ab", false),
            ("__%", "a", false),
            ("A%", "abc", false),
            ("%ab", "aab", true),
            ("%aab%aab", "aaabaaab", true),
            (r"\%", "%", true),
            (r"\%", "a", false),
            (r"\\", r"\", true),
            (r"a\b", "ab", true),
        ] {
            let compiled = Pattern::parse(pattern, Some(ESCAPE)).unwrap();
            assert_eq!(compiled.matches(text), expect, "{text:?} LIKE {pattern:?}");
        }
    }

    #[test]
    fn another_escape_and_none() {
        assert!(Pattern::parse("!%_", Some('!')).unwrap().matches("%x"));
        assert!(Pattern::parse(r"\_", None).unwrap().matches(r"\x"));
        assert!(Pattern::parse("ab!", Some('!')).is_err());
    }

    #[test]
    fn a_hostile_pattern_takes_no_exponential_time() {
        let pattern = Pattern::parse(&"%a".repeat(200), Some(ESCAPE)).unwrap();
        assert!(!pattern.matches(&"a".repeat(199)));
        assert!(!pattern.matches(&format!("{}b", "a".repeat(20_000))));
    }
}
