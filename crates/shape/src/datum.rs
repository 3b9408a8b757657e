//! Values as their column's type orders them: what Postgres's comparison operators compare.

use anabranch_crdt::{Real, Value};

use crate::{moment::Moment, numeric::Numeric, schema::ColumnType};

/// A value, borrowed from a row or a literal and read as its column's type. Only two values of one
/// type are ever compared, so the order between variants means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Datum<'a> {
    Boolean(bool),
    Integer(i64),
    Float(Float),
    Numeric(Numeric<'a>),
    Text(&'a str),
    Bytes(&'a [u8]),
    Moment(Moment),
}

/// A float as Postgres orders it: NaN is equal to itself and greater than everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Float {
    Number(Real),
    NaN,
}

impl<'a> Datum<'a> {
    /// Reads a value of a column of type `kind`. `None` for NULL, and for what the type cannot
    /// hold: a replica's SQLite file may hold that for a while, but the store never takes it.
    pub(crate) fn read(kind: ColumnType, value: &'a Value) -> Option<Self> {
        match (kind, value) {
            (ColumnType::Boolean, Value::Integer(number)) => Some(Self::Boolean(*number != 0)),
            (ColumnType::Integer, Value::Integer(number)) => Some(Self::Integer(*number)),
            (ColumnType::Float, Value::Real(real)) => Some(Self::Float(Float::Number(*real))),
            (ColumnType::Float, Value::Text(text)) if text == "NaN" => {
                Some(Self::Float(Float::NaN))
            }
            (ColumnType::Numeric, Value::Text(text)) => Numeric::read(text).map(Self::Numeric),
            (ColumnType::Text | ColumnType::Uuid | ColumnType::Enum, Value::Text(text)) => {
                Some(Self::Text(text))
            }
            (ColumnType::Bytes, Value::Blob(bytes)) => Some(Self::Bytes(bytes)),
            (kind, Value::Text(text)) if is_temporal(kind) => {
                Moment::read(kind, text).map(Self::Moment)
            }
            _ => None,
        }
    }
}

/// Whether the type is a date, a time or a timestamp.
pub(crate) const fn is_temporal(kind: ColumnType) -> bool {
    use ColumnType::{Date, Time, Timestamp, TimestampTz};
    matches!(kind, Date | Time | Timestamp | TimestampTz)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_is_greatest_and_equal_to_itself() {
        let read = |value: &Value| match Datum::read(ColumnType::Float, value) {
            Some(Datum::Float(float)) => float,
            other => panic!("{other:?}"),
        };
        assert_eq!(read(&Value::real(f64::NAN)), Float::NaN);
        assert!(read(&Value::real(f64::INFINITY)) < Float::NaN);
    }

    #[test]
    fn what_the_type_cannot_hold_reads_as_null() {
        assert_eq!(Datum::read(ColumnType::Integer, &Value::text("x")), None);
        assert_eq!(Datum::read(ColumnType::Numeric, &Value::text("x")), None);
        assert_eq!(Datum::read(ColumnType::Date, &Value::text("someday")), None);
        assert_eq!(Datum::read(ColumnType::Json, &Value::text("{}")), None);
        assert_eq!(Datum::read(ColumnType::Text, &Value::Null), None);
    }
}
