//! Conditions as SQL. Names come from the schema and are quoted in one place; every value is bound
//! as a parameter. Nothing of the filter's own text is in it.

use core::fmt::Write as _;

use anabranch_crdt::{ColumnId, Value};

use super::{Comparison, Condition, Field, Operand, Predicate, literal::is_single_precision};
use crate::schema::{Column, ColumnType, Table};

/// Whose SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Postgres: every parameter is text, which the SQL casts to what it is.
    Postgres,
    /// SQLite, over columns that hold values as they travel: see [`ColumnType`].
    Sqlite,
}

/// A condition as SQL.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sql {
    /// The text, an expression in parentheses where it needs them. Columns stand without their
    /// table's name, so it belongs where no other table is in scope.
    pub text: String,
    /// The values of its parameters, in order.
    pub parameters: Vec<Value>,
}

impl Predicate {
    /// The condition as SQL over `table`, with parameters numbered from `first_parameter`.
    ///
    /// `None` where SQL cannot say it: if a column is gone from the table, and in SQLite if the
    /// condition compares numerics, dates or times, which SQLite knows only as text. Whoever reads
    /// from SQLite then reads every row and asks [`Predicate::matches`]. `None` never means that there
    /// is no condition: to leave the condition out would hand out rows that are not in the shape.
    pub fn to_sql(&self, table: &Table, dialect: Dialect, first_parameter: usize) -> Option<Sql> {
        let mut renderer = Renderer {
            table,
            dialect,
            first_parameter,
            sql: Sql::default(),
        };
        renderer.condition(&self.condition)?;
        Some(renderer.sql)
    }
}

struct Renderer<'a> {
    table: &'a Table,
    dialect: Dialect,
    first_parameter: usize,
    sql: Sql,
}

impl<'a> Renderer<'a> {
    fn condition(&mut self, condition: &Condition) -> Option<()> {
        match condition {
            Condition::Constant(Some(true)) => self.push("TRUE"),
            Condition::Constant(Some(false)) => self.push("FALSE"),
            Condition::Constant(None) => self.push("NULL"),
            Condition::All(parts) => self.joined(parts, " AND ")?,
            Condition::Any(parts) => self.joined(parts, " OR ")?,
            Condition::Not(inner) => {
                self.push("(NOT ");
                self.condition(inner)?;
                self.push(")");
            }
            Condition::Is(inner, truth) => {
                self.push("(");
                self.condition(inner)?;
                self.push(match (truth, self.dialect) {
                    (Some(true), _) => " IS TRUE)",
                    (Some(false), _) => " IS FALSE)",
                    (None, Dialect::Postgres) => " IS UNKNOWN)",
                    (None, Dialect::Sqlite) => " IS NULL)",
                });
            }
            Condition::IsNull(column) => {
                let name = self.name(*column)?;
                self.push(&format!("({name} IS NULL)"));
            }
            Condition::Compare(field, comparison, operand) => {
                self.compare(*field, *comparison, operand)?;
            }
            Condition::In(field, values) => self.in_list(*field, values)?,
            Condition::Like(field, pattern) => {
                let name = self.name(field.id)?;
                let (operator, pattern) = match self.dialect {
                    Dialect::Postgres => ("LIKE", pattern.to_like()),
                    Dialect::Sqlite => ("GLOB", pattern.to_glob()),
                };
                self.push(&format!("({name} {operator} "));
                self.value(*field, &Value::Text(pattern))?;
                self.push(")");
            }
        }
        Some(())
    }

    fn joined(&mut self, parts: &[Condition], separator: &str) -> Option<()> {
        let mut before = "(";
        for part in parts {
            self.push(before);
            self.condition(part)?;
            before = separator;
        }
        self.push(")");
        Some(())
    }

    fn compare(&mut self, field: Field, comparison: Comparison, operand: &Operand) -> Option<()> {
        let left = self.comparable(field)?;
        let operator = match comparison {
            Comparison::Equal => "=",
            Comparison::NotEqual => "<>",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
            Comparison::Distinct => "IS DISTINCT FROM",
        };
        match operand {
            Operand::Value(value) => {
                self.push(&format!("({left} {operator} "));
                self.value(field, value)?;
            }
            Operand::Column(other) => {
                // Postgres will not guess between the collations of two columns.
                let collated = field.kind == ColumnType::Text && self.dialect == Dialect::Postgres;
                let collation = if collated { " COLLATE \"C\"" } else { "" };
                let right = self.comparable(Field {
                    id: *other,
                    ..field
                })?;
                self.push(&format!("({left}{collation} {operator} {right}"));
            }
        }
        self.push(")");
        Some(())
    }

    fn in_list(&mut self, field: Field, values: &[Value]) -> Option<()> {
        let name = self.comparable(field)?;
        self.push(&format!("({name} IN "));
        let mut before = "(";
        for value in values {
            self.push(before);
            self.value(field, value)?;
            before = ", ";
        }
        self.push("))");
        Some(())
    }

    /// A column as one side of a comparison; `None` where the store cannot compare its values.
    fn comparable(&self, field: Field) -> Option<String> {
        use ColumnType as T;
        let name = self.name(field.id)?;
        match (self.dialect, field.kind) {
            // By the label, so that a label the enum does not have is no error.
            (Dialect::Postgres, T::Enum) => Some(format!("{name}::text")),
            (Dialect::Sqlite, T::Text | T::Uuid | T::Enum) => {
                Some(format!("{name} COLLATE BINARY"))
            }
            (Dialect::Sqlite, T::Boolean | T::Integer | T::Float | T::Bytes)
            | (Dialect::Postgres, _) => Some(name),
            (Dialect::Sqlite, _) => None,
        }
    }

    /// Binds a value for comparison with a column.
    fn value(&mut self, field: Field, value: &Value) -> Option<()> {
        let number = self
            .first_parameter
            .saturating_add(self.sql.parameters.len());
        let column = self.column(field.id)?;
        let (marker, value) = match self.dialect {
            Dialect::Sqlite => (format!("?{number}"), value.clone()),
            Dialect::Postgres => (
                format!("${number}::text{}", cast(column)),
                as_postgres_text(field.kind, value),
            ),
        };
        self.push(&marker);
        self.sql.parameters.push(value);
        Some(())
    }

    fn name(&self, id: ColumnId) -> Option<String> {
        let column = self.column(id)?;
        Some(format!("\"{}\"", column.name.replace('"', "\"\"")))
    }

    fn column(&self, id: ColumnId) -> Option<&'a Column> {
        self.table.column(id)
    }

    fn push(&mut self, text: &str) {
        self.sql.text.push_str(text);
    }
}

/// The cast from text to what a value is compared as: the widest of the column's family, so that
/// no value is out of range, but never to another family, which would pass indexes by.
fn cast(column: &Column) -> &'static str {
    match column.kind {
        ColumnType::Boolean => "::boolean",
        ColumnType::Integer => "::bigint",
        ColumnType::Float if is_single_precision(column) => "::real",
        ColumnType::Float => "::double precision",
        ColumnType::Numeric => "::numeric",
        ColumnType::Uuid => "::uuid",
        ColumnType::Bytes => "::bytea",
        ColumnType::Date => "::date",
        ColumnType::Time => "::time",
        ColumnType::Timestamp => "::timestamp",
        ColumnType::TimestampTz => "::timestamptz",
        ColumnType::Text | ColumnType::Enum | ColumnType::Json | ColumnType::Other => "",
    }
}

/// A value in the text that Postgres reads it from.
fn as_postgres_text(kind: ColumnType, value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::Integer(number) if kind == ColumnType::Boolean => {
            Value::text(if *number == 0 { "false" } else { "true" })
        }
        Value::Integer(number) => Value::Text(number.to_string()),
        Value::Real(real) => Value::Text(match real.get() {
            f64::INFINITY => "Infinity".to_owned(),
            f64::NEG_INFINITY => "-Infinity".to_owned(),
            number => format!("{number:e}"),
        }),
        Value::Text(text) => Value::Text(text.clone()),
        Value::Blob(bytes) => {
            let mut hex = String::from("\\x");
            for byte in bytes {
                // Writing to a string cannot fail.
                let _ = write!(hex, "{byte:02x}");
            }
            Value::Text(hex)
        }
    }
}
