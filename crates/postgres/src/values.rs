//! Values between Postgres's text and the engine's five storage classes. No IO.

use anabranch_crdt::Value;
use anabranch_shape::schema::ColumnType;

/// The value that Postgres writes as `text` in a column of this kind.
pub(crate) fn from_text(kind: ColumnType, text: &str) -> Value {
    let canonical = match kind {
        ColumnType::Boolean => match text {
            "t" | "true" => Some(Value::Integer(1)),
            "f" | "false" => Some(Value::Integer(0)),
            _ => None,
        },
        ColumnType::Integer => text.parse().ok().map(Value::Integer),
        ColumnType::Float => text.parse().ok().map(Value::real),
        ColumnType::Bytes => text.strip_prefix("\\x").and_then(unhex).map(Value::Blob),
        _ => None,
    };
    canonical.unwrap_or_else(|| Value::text(text))
}

/// The same, where NULL has no text.
pub(crate) fn from_nullable(kind: ColumnType, text: Option<&str>) -> Value {
    text.map_or(Value::Null, |text| from_text(kind, text))
}

/// The text that Postgres reads a value from.
pub(crate) fn to_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Integer(number) => Some(number.to_string()),
        Value::Real(real) => Some(format!("{:e}", real.get())),
        Value::Text(text) => Some(text.clone()),
        Value::Blob(bytes) => Some(hex(bytes)),
    }
}

/// The text that Postgres itself writes for a value in a column of this kind, by which keys are
/// compared. (For floats only as far as they need no exponent.)
pub(crate) fn written(kind: ColumnType, value: &Value) -> Option<String> {
    match (kind, value) {
        (ColumnType::Boolean, Value::Integer(0)) => Some("f".to_owned()),
        (ColumnType::Boolean, Value::Integer(1)) => Some("t".to_owned()),
        (_, Value::Real(real)) => Some(real.get().to_string()),
        _ => to_text(value),
    }
}

/// Why a value cannot go into a column of this kind, as far as that shows without Postgres.
pub(crate) fn refusal(kind: ColumnType, value: &Value) -> Option<&'static str> {
    match value {
        Value::Blob(_) if kind != ColumnType::Bytes => Some("bytes go into bytea columns only"),
        Value::Text(text) if text.contains('\0') => {
            Some("Postgres does not store text with a NUL character")
        }
        _ => None,
    }
}

/// The hexadecimal digits in `text` as bytes.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len().saturating_mul(2).saturating_add(2));
    text.push_str("\\x");
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_postgres_writes_is_read_and_written_back() {
        let cases = [
            (ColumnType::Integer, "-42", Value::Integer(-42)),
            (
                ColumnType::Float,
                "-Infinity",
                Value::real(f64::NEG_INFINITY),
            ),
            (ColumnType::Float, "1e+300", Value::real(1e300)),
            (ColumnType::Float, "NaN", Value::text("NaN")),
            (ColumnType::Bytes, "\\x00ff", Value::Blob(vec![0, 255])),
            (ColumnType::Bytes, "\\x", Value::Blob(vec![])),
            (ColumnType::Numeric, "10.50", Value::text("10.50")),
            (ColumnType::Other, "{1,2}", Value::text("{1,2}")),
        ];
        for (kind, text, value) in cases {
            assert_eq!(from_text(kind, text), value, "{text}");
            let back = to_text(&value).unwrap();
            assert_eq!(from_text(kind, &back), value, "{text} went back as {back}");
        }
        assert_eq!(from_text(ColumnType::Boolean, "t"), Value::Integer(1));
        assert_eq!(from_nullable(ColumnType::Text, None), Value::Null);
    }
}
