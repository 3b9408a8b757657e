//! JSON in one spelling: how the elements of a set are told apart and shown.
//!
//! The spelling is that of Postgres's `jsonb`, so that a set reads the same in every store. Only as
//! much JSON as that takes: no values come out of here, only text.

use alloc::{borrow::ToOwned, collections::BTreeMap, string::String, vec::Vec};
use core::fmt::Write as _;

/// The one spelling of each element of a JSON array; `None` if `text` is no JSON array.
pub(crate) fn elements(text: &str) -> Option<Vec<String>> {
    let mut input = Input::new(text);
    input.expect(b'[')?;
    let elements = input.items(b']', |input| input.value(1))?;
    input.end(elements)
}

/// The one spelling of a JSON text; `None` if it is none.
pub(crate) fn canonical(text: &str) -> Option<String> {
    let mut input = Input::new(text);
    let value = input.value(0)?;
    input.end(value)
}

/// `text` as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len().saturating_add(2));
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// A JSON array of elements that are spelled already.
pub(crate) fn array<'a>(elements: impl Iterator<Item = &'a str>) -> String {
    let elements: Vec<&str> = elements.collect();
    let mut out = String::from("[");
    out.push_str(&elements.join(", "));
    out.push(']');
    out
}

/// Deeper values are no JSON to us: what nests deeper was never meant as an element of a set.
const DEPTH_MAX: usize = 32;
/// Numbers with larger exponents are kept as they are written, rather than written out.
const EXPONENT_MAX: usize = 400;

struct Input<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Input<'a> {
    const fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    const fn step(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes);
    }

    fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.step(1);
        }
    }

    /// Steps over `byte` and the blanks before it.
    fn expect(&mut self, byte: u8) -> Option<()> {
        self.skip_blanks();
        (self.peek()? == byte).then(|| self.step(1))
    }

    /// `read`, if nothing but blanks follows.
    fn end<T>(&mut self, read: T) -> Option<T> {
        self.skip_blanks();
        self.rest().is_empty().then_some(read)
    }

    fn value(&mut self, depth: usize) -> Option<String> {
        if depth > DEPTH_MAX {
            return None;
        }
        self.skip_blanks();
        match self.peek()? {
            b'"' => self.string().map(|text| quoted(&text)),
            b'[' => {
                self.step(1);
                let items = self.items(b']', |input| input.value(depth.saturating_add(1)))?;
                Some(array(items.iter().map(String::as_str)))
            }
            b'{' => self.object(depth),
            b'-' | b'0'..=b'9' => self.number(),
            _ => {
                let words = ["true", "false", "null"];
                let word = words.iter().find(|word| self.rest().starts_with(**word))?;
                self.step(word.len());
                Some((*word).to_owned())
            }
        }
    }

    /// What stands between commas up to `close`.
    fn items<T>(
        &mut self,
        close: u8,
        mut item: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let mut items = Vec::new();
        if self.expect(close).is_some() {
            return Some(items);
        }
        loop {
            items.push(item(self)?);
            if self.expect(close).is_some() {
                return Some(items);
            }
            self.expect(b',')?;
        }
    }

    /// Keys by length, then by bytes; of a key that comes twice the last value.
    fn object(&mut self, depth: usize) -> Option<String> {
        self.step(1);
        let members = self.items(b'}', |input| {
            input.skip_blanks();
            let key = input.string()?;
            input.expect(b':')?;
            Some(((key.len(), key), input.value(depth.saturating_add(1))?))
        })?;
        let members: BTreeMap<(usize, String), String> = members.into_iter().collect();
        let mut out = String::from("{");
        for (index, ((_, key), value)) in members.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let _ = write!(out, "{comma}{}: {value}", quoted(key));
        }
        out.push('}');
        Some(out)
    }

    fn string(&mut self) -> Option<String> {
        self.expect(b'"')?;
        let mut out = String::new();
        loop {
            let next = self.rest().chars().next()?;
            self.step(next.len_utf8());
            match next {
                '"' => return Some(out),
                '\\' => out.push(self.escape()?),
                control if control < ' ' => return None,
                other => out.push(other),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let byte = self.peek()?;
        self.step(1);
        Some(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let mut units = alloc::vec![self.unit()?];
                if units.iter().all(|unit| (0xd800..0xdc00).contains(unit)) {
                    self.rest().strip_prefix("\\u")?;
                    self.step(2);
                    units.push(self.unit()?);
                }
                let mut characters = char::decode_utf16(units);
                characters.next()?.ok()?
            }
            _ => return None,
        })
    }

    fn unit(&mut self) -> Option<u16> {
        let digits = self.rest().get(..4)?;
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        self.step(4);
        u16::from_str_radix(digits, 16).ok().filter(|_| is_hex)
    }

    fn digits(&mut self) -> &'a str {
        let rest = self.rest();
        let count = rest.bytes().take_while(u8::is_ascii_digit).count();
        self.step(count);
        rest.get(..count).unwrap_or_default()
    }

    /// A number as Postgres writes a `numeric`: without exponent, with the places it was given.
    fn number(&mut self) -> Option<String> {
        let start = self.at;
        let negative = self.peek() == Some(b'-');
        self.step(usize::from(negative));
        let whole = self.digits();
        if whole.is_empty() || (whole.len() > 1 && whole.starts_with('0')) {
            return None;
        }
        let mut places = "";
        if self.peek() == Some(b'.') {
            self.step(1);
            places = self.digits();
            if places.is_empty() {
                return None;
            }
        }
        let (mut exponent, mut shrinks) = ("0", false);
        if let Some(b'e' | b'E') = self.peek() {
            self.step(1);
            shrinks = self.peek() == Some(b'-');
            self.step(usize::from(matches!(self.peek(), Some(b'-' | b'+'))));
            exponent = self.digits();
            if exponent.is_empty() {
                return None;
            }
        }
        match exponent.parse() {
            Ok(shift) if shift <= EXPONENT_MAX => {
                Some(written_out(negative, whole, places, shift, shrinks))
            }
            _ => self.text.get(start..self.at).map(str::to_owned),
        }
    }
}

/// The number `whole.places` with its point moved by `shift`, to the left if it `shrinks`.
fn written_out(negative: bool, whole: &str, places: &str, shift: usize, shrinks: bool) -> String {
    let mut digits = [whole, places].concat();
    let mut point = whole.len();
    if shrinks {
        if shift >= point {
            let zeros = shift.saturating_sub(point).saturating_add(1);
            digits.insert_str(0, &"0".repeat(zeros));
            point = point.saturating_add(zeros);
        }
        point = point.saturating_sub(shift);
    } else {
        point = point.saturating_add(shift);
        let zeros = point.saturating_sub(digits.len());
        digits.push_str(&"0".repeat(zeros));
    }
    let (whole, places) = digits.split_at_checked(point).unwrap_or((&digits, ""));
    let whole = whole.trim_start_matches('0');
    let is_zero = digits.bytes().all(|digit| digit == b'0');
    let mut out = String::new();
    if negative && !is_zero {
        out.push('-');
    }
    out.push_str(if whole.is_empty() { "0" } else { whole });
    if !places.is_empty() {
        out.push('.');
        out.push_str(places);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_spelled_as_jsonb_spells_it() {
        let cases = [
            (r#" "a\/b\u00e9\n\u0001" "#, "\"a/b\u{e9}\\n\\u0001\""),
            (r#""\ud83d\ude00""#, "\"\u{1f600}\""),
            ("1.50", "1.50"),
            ("1e2", "100"),
            ("1.50e1", "15.0"),
            ("12.5e-3", "0.0125"),
            ("-0.0", "0.0"),
            ("-0", "0"),
            ("-12E+1", "-120"),
            ("[1 ,2,[ ] ]", "[1, 2, []]"),
            (
                r#"{"bb":1,"a":{},"c":2,"a":[null]}"#,
                r#"{"a": [null], "c": 2, "bb": 1}"#,
            ),
            ("true", "true"),
        ];
        for (written, expected) in cases {
            assert_eq!(canonical(written).as_deref(), Some(expected), "{written}");
            assert_eq!(canonical(expected).as_deref(), Some(expected), "{written}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        let cases = [
            "",
            "[1",
            "[1,]",
            "01",
            "1.",
            "-",
            "1e",
            "tru",
            "\"a",
            "\"\\x\"",
            "\"\\ud800\"",
            "{\"a\"}",
            "[] []",
            "\"\n\"",
        ];
        for text in cases {
            assert_eq!(canonical(text), None, "{text}");
        }
        assert_eq!(canonical(&"[".repeat(100_000)), None);
        assert_eq!(canonical("1e999").as_deref(), Some("1e999"));
        assert_eq!(elements("5"), None);
    }
}
