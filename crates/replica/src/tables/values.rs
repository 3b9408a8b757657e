//! Values between SQLite and the engine, and their canonical form per column type.
//!
//! How a column is declared in a replica: booleans and integers `INTEGER`, floats `REAL`, bytes
//! `BLOB`, everything else `TEXT`, so that SQLite's type affinity changes no canonical value.

use anabranch_crdt::Value;
use anabranch_shape::schema::ColumnType;
use rusqlite::{
    ToSql,
    types::{ToSqlOutput, ValueRef},
};
use uuid::Uuid;

/// A value to be bound to a statement.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a>(pub &'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Real(real) => ValueRef::Real(real.get()),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// The value SQLite holds. Text that is not UTF-8 travels as a blob, which no store takes for a
/// text column, so that it is refused with a reason rather than altered.
pub fn from_sql(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::real(number),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::text(text),
            Err(_) => Value::Blob(bytes.to_vec()),
        },
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    }
}

/// The declared type of a replica's column, which decides SQLite's affinity.
pub const fn declared_type(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Boolean | ColumnType::Integer => "INTEGER",
        ColumnType::Float => "REAL",
        ColumnType::Bytes => "BLOB",
        _ => "TEXT",
    }
}

/// Whether a column of this type can hold the value, as far as the storage class tells.
pub fn is_of_class(kind: ColumnType, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Integer(number) => match kind {
            ColumnType::Boolean => matches!(*number, 0 | 1),
            ColumnType::Integer => true,
            _ => false,
        },
        Value::Real(_) => matches!(kind, ColumnType::Float),
        // NaN travels as text, since SQLite has none.
        Value::Text(_) => !matches!(
            kind,
            ColumnType::Boolean | ColumnType::Integer | ColumnType::Bytes
        ),
        Value::Blob(_) => matches!(kind, ColumnType::Bytes),
    }
}

/// The canonical form of a value that an application wrote, where it wrote another one.
pub fn canonical(kind: ColumnType, value: &Value) -> Option<Value> {
    match (kind, value) {
        (_, Value::Null) => None,
        (ColumnType::Boolean, Value::Text(text)) => boolean(text),
        (ColumnType::Uuid, Value::Text(text)) if uuid_bytes(text).is_none() => {
            let uuid = Uuid::try_parse(text).ok()?;
            Some(Value::Text(uuid_text(uuid.into_bytes())))
        }
        (ColumnType::Uuid, Value::Blob(bytes)) => {
            Some(Value::Text(uuid_text(bytes.as_slice().try_into().ok()?)))
        }
        (ColumnType::Float, Value::Integer(number)) => {
            number.to_string().parse().ok().map(Value::real)
        }
        (ColumnType::Boolean | ColumnType::Integer | ColumnType::Float | ColumnType::Bytes, _) => {
            None
        }
        (_, Value::Integer(number)) => Some(Value::Text(number.to_string())),
        (_, Value::Real(real)) => Some(Value::Text(real.get().to_string())),
        _ => None,
    }
}

fn boolean(text: &str) -> Option<Value> {
    const TRUE: [&str; 5] = ["t", "true", "yes", "on", "y"];
    const FALSE: [&str; 5] = ["f", "false", "no", "off", "n"];
    let is = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    if is(&TRUE) {
        Some(Value::Integer(1))
    } else if is(&FALSE) {
        Some(Value::Integer(0))
    } else {
        None
    }
}

/// The bytes of a UUID in canonical text; `None` for any other text.
pub(super) fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let text: &[u8; 36] = text.as_bytes().try_into().ok()?;
    if (text[8], text[13], text[18], text[23]) != (b'-', b'-', b'-', b'-') {
        return None;
    }
    let mut out = [0_u8; 16];
    for (byte, at) in out.iter_mut().zip(UUID_DIGITS) {
        let (high, low) = (text.get(at)?, text.get(at + 1)?);
        *byte = (hex(*high)? << 4) | hex(*low)?;
    }
    Some(out)
}

/// Where the digits of each byte of a UUID begin in its text.
const UUID_DIGITS: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

/// The canonical text of a UUID.
pub(super) fn uuid_text(bytes: [u8; 16]) -> String {
    Uuid::from_bytes(bytes).hyphenated().to_string()
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_applications_write_becomes_canonical() {
        let cases = [
            (
                ColumnType::Boolean,
                Value::text("TRUE"),
                Some(Value::Integer(1)),
            ),
            (
                ColumnType::Boolean,
                Value::text("f"),
                Some(Value::Integer(0)),
            ),
            (ColumnType::Boolean, Value::Integer(1), None),
            (
                ColumnType::Uuid,
                Value::text("{0B6E0D1A-0000-4000-8000-00000000ABCD}"),
                Some(Value::text("0b6e0d1a-0000-4000-8000-00000000abcd")),
            ),
            (ColumnType::Uuid, Value::text("not a uuid"), None),
            (
                ColumnType::Numeric,
                Value::Integer(12),
                Some(Value::text("12")),
            ),
            (
                ColumnType::Numeric,
                Value::real(1.5),
                Some(Value::text("1.5")),
            ),
            (ColumnType::Text, Value::Blob(vec![0xff]), None),
            (ColumnType::Float, Value::Integer(3), Some(Value::real(3.0))),
        ];
        for (kind, written, expected) in cases {
            assert_eq!(canonical(kind, &written), expected, "{kind:?} {written:?}");
        }
    }
}
