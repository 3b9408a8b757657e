//! Literals and parameters, and how each becomes a value of the column it is compared with.

use anabranch_crdt::Value;

use crate::{
    Place, Problem, ShapeError, limits,
    moment::Moment,
    numeric,
    schema::{Column, ColumnType},
};

/// A value in a filter, before it is known what it is compared with.
#[derive(Clone, Debug)]
pub(super) struct Literal {
    pub(super) content: Content,
    /// The type it was cast to.
    pub(super) cast: Option<ColumnType>,
    pub(super) place: Option<Place>,
}

/// What a literal says.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Null,
    Boolean(bool),
    /// A number, as it was written.
    Number(String),
    /// A string: of any type, as the column decides.
    Text(String),
    /// An integer given as a parameter, and so perhaps a boolean.
    Integer(i64),
    /// Bytes given as a parameter.
    Bytes(Vec<u8>),
}

impl Literal {
    /// The literal that a parameter's value stands for.
    pub(super) fn of_parameter(value: &Value, place: Option<Place>) -> Self {
        let content = match value {
            Value::Null => Content::Null,
            Value::Integer(number) => Content::Integer(*number),
            Value::Real(real) => Content::Number(real.get().to_string()),
            Value::Text(text) => Content::Text(text.clone()),
            Value::Blob(bytes) => Content::Bytes(bytes.clone()),
        };
        Self {
            content,
            cast: None,
            place,
        }
    }

    /// The number with its sign changed, if it is a number.
    pub(super) fn negated(mut self) -> Option<Self> {
        let Content::Number(digits) = &self.content else {
            return None;
        };
        let negative = digits
            .strip_prefix('-')
            .map_or_else(|| format!("-{digits}"), str::to_owned);
        self.content = Content::Number(negative);
        Some(self)
    }

    /// The canonical value for a column; `None` is NULL.
    pub(super) fn value(&self, column: &Column) -> Result<Option<Value>, ShapeError> {
        if self.size_bytes() > limits::LITERAL_BYTES_MAX {
            let max = limits::LITERAL_BYTES_MAX;
            return Err(Problem::TooLarge {
                what: "a value of too many bytes",
                max,
            }
            .at(self.place));
        }
        if self.cast.is_some_and(|cast| cast != column.kind) {
            return Err(self.type_error(format!(
                "the value is cast to a type other than that of column {:?}, which is {}; cast it \
                 to that, or leave the cast off",
                column.name, column.declared_type
            )));
        }
        let value = match (&self.content, column.kind) {
            (Content::Null, _) => return Ok(None),
            (Content::Boolean(truth), ColumnType::Boolean) => Some(Value::Integer((*truth).into())),
            (Content::Integer(bit @ (0 | 1)), ColumnType::Boolean) => Some(Value::Integer(*bit)),
            (Content::Integer(number), _) => of_number(&number.to_string(), column),
            (Content::Number(number), _) => of_number(number, column),
            (Content::Text(text), _) => of_text(text, column),
            (Content::Bytes(bytes), ColumnType::Bytes) => Some(Value::Blob(bytes.clone())),
            _ => None,
        };
        value.map(Some).ok_or_else(|| self.misfit(column))
    }

    fn misfit(&self, column: &Column) -> ShapeError {
        self.type_error(format!(
            "{} is no value for column {:?}, which is {}; write one such as {}",
            self.shown(),
            column.name,
            column.declared_type,
            example(column.kind)
        ))
    }

    fn type_error(&self, message: String) -> ShapeError {
        Problem::Type(message).at(self.place)
    }

    fn size_bytes(&self) -> usize {
        match &self.content {
            Content::Number(text) | Content::Text(text) => text.len(),
            Content::Bytes(bytes) => bytes.len(),
            Content::Null | Content::Boolean(_) | Content::Integer(_) => 8,
        }
    }

    fn shown(&self) -> String {
        match &self.content {
            Content::Null => "NULL".to_owned(),
            Content::Boolean(truth) => truth.to_string(),
            Content::Integer(number) => number.to_string(),
            Content::Number(text) | Content::Text(text) if text.len() > 40 => {
                format!("a value of {} bytes", text.len())
            }
            Content::Number(text) => text.clone(),
            Content::Text(text) => format!("'{text}'"),
            Content::Bytes(_) => "a value of bytes".to_owned(),
        }
    }
}

/// The type a cast names.
pub(super) fn type_named(name: &str) -> Option<ColumnType> {
    Some(match name.to_ascii_lowercase().as_str() {
        "boolean" | "bool" => ColumnType::Boolean,
        "smallint" | "int2" | "integer" | "int" | "int4" | "bigint" | "int8" => ColumnType::Integer,
        "real" | "float4" | "double precision" | "float8" => ColumnType::Float,
        "numeric" | "decimal" => ColumnType::Numeric,
        "text" | "varchar" | "character varying" => ColumnType::Text,
        "uuid" => ColumnType::Uuid,
        "bytea" => ColumnType::Bytes,
        "date" => ColumnType::Date,
        "time" | "time without time zone" => ColumnType::Time,
        "timestamp" | "timestamp without time zone" => ColumnType::Timestamp,
        "timestamptz" | "timestamp with time zone" => ColumnType::TimestampTz,
        _ => return None,
    })
}

/// Whether a float column holds single precision: such values are rounded to it, as the store does.
pub(super) fn is_single_precision(column: &Column) -> bool {
    matches!(column.declared_type.as_str(), "real" | "float4")
}

fn of_number(text: &str, column: &Column) -> Option<Value> {
    let spelled = numeric::spelled_out(text)?;
    match column.kind {
        ColumnType::Integer => {
            let number = numeric::Numeric::read(&spelled)?;
            number.to_i64().map(Value::Integer)
        }
        ColumnType::Numeric => Some(Value::Text(spelled)),
        ColumnType::Float => of_float(&spelled, is_single_precision(column)),
        _ => None,
    }
}

fn of_float(spelled: &str, single_precision: bool) -> Option<Value> {
    let number: f64 = if single_precision {
        spelled.parse::<f32>().ok()?.to_string().parse().ok()?
    } else {
        spelled.parse().ok()?
    };
    let overflows = number.is_infinite() && !spelled.ends_with("Infinity");
    let underflows = number == 0.0 && spelled != "0";
    (!overflows && !underflows).then(|| Value::real(number))
}

fn of_text(text: &str, column: &Column) -> Option<Value> {
    let trimmed = text.trim();
    match column.kind {
        ColumnType::Boolean => {
            of_boolean(&trimmed.to_ascii_lowercase()).map(|truth| Value::Integer(truth.into()))
        }
        ColumnType::Integer | ColumnType::Float | ColumnType::Numeric => of_number(trimmed, column),
        // Postgres has no text with a zero character, and so nothing that such a text could equal.
        ColumnType::Text | ColumnType::Enum => (!text.contains('\0')).then(|| Value::text(text)),
        ColumnType::Uuid => of_uuid(&trimmed.to_ascii_lowercase()),
        ColumnType::Bytes => of_hex(trimmed.strip_prefix("\\x")?).map(Value::Blob),
        kind @ (ColumnType::Date
        | ColumnType::Time
        | ColumnType::Timestamp
        | ColumnType::TimestampTz) => {
            Moment::read(kind, trimmed).map(|moment| Value::Text(moment.write(kind)))
        }
        ColumnType::Json | ColumnType::Other => None,
    }
}

fn of_boolean(word: &str) -> Option<bool> {
    match word {
        "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn of_uuid(text: &str) -> Option<Value> {
    let digits: String = text.split('-').collect();
    if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut uuid = String::with_capacity(36);
    for (index, digit) in digits.chars().enumerate() {
        if matches!(index, 8 | 12 | 16 | 20) {
            uuid.push('-');
        }
        uuid.push(digit);
    }
    // Hyphens are left out or where they belong.
    (text == digits || text == uuid).then_some(Value::Text(uuid))
}

fn of_hex(digits: &str) -> Option<Vec<u8>> {
    let nibble = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|n| u8::try_from(n).ok())
    };
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some((nibble(*high)? << 4) | nibble(*low)?),
        _ => None,
    };
    digits.as_bytes().chunks(2).map(pair).collect()
}

const fn example(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Boolean => "TRUE",
        ColumnType::Integer => "42",
        ColumnType::Float => "4.2",
        ColumnType::Numeric => "4.20",
        ColumnType::Text | ColumnType::Enum => "'draft'",
        ColumnType::Uuid => "'018f6f3e-5c1a-7b2d-9e4f-0123456789ab'",
        ColumnType::Bytes => r"'\xc0ffee'",
        ColumnType::Date => "'2026-01-31'",
        ColumnType::Time => "'18:30:00'",
        ColumnType::Timestamp => "'2026-01-31 18:30:00'",
        ColumnType::TimestampTz => "'2026-01-31 18:30:00+00'",
        ColumnType::Json | ColumnType::Other => "NULL",
    }
}

#[cfg(test)]
mod tests {
    use anabranch_crdt::ColumnId;

    use super::*;

    fn column(kind: ColumnType, declared_type: &str) -> Column {
        Column {
            id: ColumnId(1),
            name: "c".to_owned(),
            kind,
            declared_type: declared_type.to_owned(),
            nullable: true,
            has_default: false,
            bytewise_order: true,
            merge: Default::default(),
        }
    }

    #[test]
    fn strings_become_canonical_values() {
        let uuid = "018f6f3e-5c1a-7b2d-9e4f-0123456789ab";
        for (kind, text, expect) in [
            (ColumnType::Boolean, " Yes ", Some(Value::Integer(1))),
            (ColumnType::Boolean, "maybe", None),
            (ColumnType::Integer, " -7", Some(Value::Integer(-7))),
            (ColumnType::Integer, "7.5", None),
            (
                ColumnType::Float,
                "-Infinity",
                Some(Value::real(f64::NEG_INFINITY)),
            ),
            (ColumnType::Float, "nan", Some(Value::text("NaN"))),
            (ColumnType::Float, "1e400", None),
            (ColumnType::Float, "1e-400", None),
            (ColumnType::Numeric, "1.50", Some(Value::text("1.5"))),
            (ColumnType::Text, " a ", Some(Value::text(" a "))),
            (ColumnType::Text, "a\0", None),
            (
                ColumnType::Uuid,
                "018F6F3E5C1A7B2D9E4F0123456789AB",
                Some(Value::text(uuid)),
            ),
            (ColumnType::Uuid, "018f6f3e-5c1a7b2d9e4f0123456789ab", None),
            (
                ColumnType::Bytes,
                r"\xC0ffee",
                Some(Value::Blob(vec![0xc0, 0xff, 0xee])),
            ),
            (ColumnType::Bytes, r"\xabc", None),
            (ColumnType::Bytes, "abc", None),
            (ColumnType::Date, "2026-1-1", None),
        ] {
            assert_eq!(of_text(text, &column(kind, "")), expect, "{text}");
        }
    }

    #[test]
    fn single_precision_is_rounded_as_the_store_rounds() {
        let real = column(ColumnType::Float, "real");
        assert_eq!(of_number("1.10000000001", &real), Some(Value::real(1.1)));
        assert_eq!(of_number("1e39", &real), None);
        let double = column(ColumnType::Float, "double precision");
        assert_eq!(of_number("1e39", &double), Some(Value::real(1e39)));
    }
}
