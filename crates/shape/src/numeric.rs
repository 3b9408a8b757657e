//! Exact decimal numbers, compared as Postgres compares `numeric`, without leaving their text.

use core::{cmp::Ordering, fmt};

use crate::limits::NUMERIC_DIGITS_MAX;

/// A `numeric` value, borrowed from its text. The derived order is Postgres's: NaN is equal to
/// itself and greater than everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Numeric<'a> {
    MinusInfinity,
    Finite(Decimal<'a>),
    Infinity,
    NaN,
}

/// A finite number without leading and trailing zeros, so that equal numbers have equal parts.
/// Zero has no digits and is not negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decimal<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
}

impl<'a> Numeric<'a> {
    /// Reads a number as Postgres writes it (without exponent); `None` if it is none.
    pub(crate) fn read(text: &'a str) -> Option<Self> {
        match text {
            "NaN" => return Some(Self::NaN),
            "Infinity" => return Some(Self::Infinity),
            "-Infinity" => return Some(Self::MinusInfinity),
            _ => {}
        }
        let (negative, digits) = signed(text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty()) || !is_digits(whole) || !is_digits(fraction) {
            return None;
        }
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        let negative = negative && !(whole.is_empty() && fraction.is_empty());
        Some(Self::Finite(Decimal {
            negative,
            whole,
            fraction,
        }))
    }

    /// The number as an integer, if it is one that fits.
    pub(crate) fn to_i64(self) -> Option<i64> {
        match self {
            Self::Finite(Decimal {
                fraction: "",
                whole: "",
                ..
            }) => Some(0),
            Self::Finite(Decimal { fraction: "", .. }) => self.to_string().parse().ok(),
            _ => None,
        }
    }
}

/// What people may write for a number, in the form that [`Numeric::read`] reads: any case of the
/// special names, and an exponent spelled out.
pub(crate) fn spelled_out(text: &str) -> Option<String> {
    let (negative, rest) = signed(text);
    let special = match rest.to_ascii_lowercase().as_str() {
        "nan" => (!negative && rest.len() == text.len()).then_some("NaN"),
        "inf" | "infinity" => Some(if negative { "-Infinity" } else { "Infinity" }),
        _ => None,
    };
    if let Some(special) = special {
        return Some(special.to_owned());
    }
    let sign = if negative { "-" } else { "" };
    let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let exponent: i32 = exponent.parse().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if (whole.is_empty() && fraction.is_empty()) || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let shift = usize::try_from(exponent.unsigned_abs()).ok()?;
    if shift.max(whole.len()).max(fraction.len()) > NUMERIC_DIGITS_MAX {
        return None;
    }
    let zeros = "0".repeat(shift);
    let (digits, point) = if exponent < 0 {
        (format!("{zeros}{whole}{fraction}"), whole.len())
    } else {
        (
            format!("{whole}{fraction}{zeros}"),
            whole.len().saturating_add(shift),
        )
    };
    let (whole, fraction) = digits.split_at_checked(point)?;
    let number = format!("{sign}{whole}.{fraction}");
    Some(Numeric::read(&number)?.to_string())
}

fn signed(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

impl<'a> Decimal<'a> {
    fn magnitude(&self) -> (usize, &'a str, &'a str) {
        (self.whole.len(), self.whole, self.fraction)
    }
}

impl Ord for Decimal<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, false) => self.magnitude().cmp(&other.magnitude()),
            (true, true) => other.magnitude().cmp(&self.magnitude()),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

impl PartialOrd for Decimal<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Numeric<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Decimal {
            negative,
            whole,
            fraction,
        } = match self {
            Self::MinusInfinity => return f.write_str("-Infinity"),
            Self::Infinity => return f.write_str("Infinity"),
            Self::NaN => return f.write_str("NaN"),
            Self::Finite(decimal) => decimal,
        };
        f.write_str(if *negative { "-" } else { "" })?;
        f.write_str(if whole.is_empty() { "0" } else { whole })?;
        if fraction.is_empty() {
            Ok(())
        } else {
            write!(f, ".{fraction}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_order_as_numbers_not_as_text() {
        let ascending = [
            "-Infinity",
            "-100",
            "-20.5",
            "-20.05",
            "-3",
            "-0.1",
            "0",
            "0.09",
            "0.1",
            "0.11",
            "1",
            "1.5",
            "10",
            "99999999999999999999.9",
            "100000000000000000000",
            "Infinity",
            "NaN",
        ];
        let numbers: Vec<_> = ascending
            .iter()
            .map(|text| Numeric::read(text).unwrap())
            .collect();
        assert!(numbers.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn equal_numbers_are_equal_however_they_are_written() {
        for (a, b) in [
            ("1.0", "1"),
            ("-0.00", "0"),
            ("007.50", "7.5"),
            (".5", "0.5"),
            ("5.", "5"),
        ] {
            assert_eq!(
                Numeric::read(a).unwrap(),
                Numeric::read(b).unwrap(),
                "{a} {b}"
            );
        }
    }

    #[test]
    fn literals_are_spelled_out() {
        let check = |text: &str, expect: Option<&str>| {
            assert_eq!(spelled_out(text).as_deref(), expect, "{text}");
        };
        check("1e3", Some("1000"));
        check("-12.50E-1", Some("-1.25"));
        check("1e-3", Some("0.001"));
        check("+5", Some("5"));
        check("-inf", Some("-Infinity"));
        check("nan", Some("NaN"));
        for refused in [
            "", ".", "-", "1e", "e5", "1e5000", "--1", "1_000", "0x10", "-nan", "1 2",
        ] {
            check(refused, None);
        }
        assert_eq!(Numeric::read("1e3"), None);
    }

    #[test]
    fn integers_are_found_and_bounded() {
        let integer = |text| Numeric::read(text).unwrap().to_i64();
        assert_eq!(integer("-9223372036854775808"), Some(i64::MIN));
        assert_eq!(integer("9223372036854775808"), None);
        assert_eq!(integer("5.00"), Some(5));
        assert_eq!(integer("0"), Some(0));
        assert_eq!(integer("5.5"), None);
    }
}
