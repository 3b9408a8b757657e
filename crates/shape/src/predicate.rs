//! A shape's condition, compiled: a closed enum that is evaluated over rows or rendered as SQL.
//! The text it came from is gone, so nothing of that text can reach a store.

mod check;
mod evaluate;
mod like;
mod literal;
mod render;
mod side;
mod tokens;

use std::collections::BTreeSet;

use anabranch_crdt::{ColumnId, Value};
use sqlparser::{dialect::PostgreSqlDialect, parser::Parser, tokenizer::Token};

use self::like::Pattern;
use crate::{
    Problem, ShapeError, limits,
    schema::{ColumnType, Table},
};

pub use render::{Dialect, Sql};

/// A checked condition over the rows of one table. Equal conditions are equal values, even where
/// their texts differ in blanks, parentheses or the order of an `IN` list.
///
/// The language is a part of Postgres's, with Postgres's meaning: columns, literals and `:name`
/// parameters; comparisons, `IN`, `BETWEEN`, `LIKE`, `IS`, `AND`, `OR`, `NOT`. Two things are
/// narrower. A literal is read as the column's type, so `1.5` does not compare with an integer
/// column. And text is ordered only in columns with collation `C`, since every store and replica
/// must order it alike.
///
/// ```
/// # use anabranch_crdt::{ColumnId, TableId, Value};
/// # use anabranch_shape::{Predicate, schema::{Column, ColumnType, Table}};
/// # let column = |id, name: &str, kind| Column {
/// #     id: ColumnId(id), name: name.into(), kind, declared_type: "".into(),
/// #     nullable: true, has_default: false, bytewise_order: true, merge: Default::default(),
/// # };
/// # let tasks = Table {
/// #     id: TableId(1), namespace: "public".into(), name: "tasks".into(),
/// #     columns: vec![
/// #         column(1, "id", ColumnType::Integer), column(2, "owner", ColumnType::Text),
/// #         column(3, "points", ColumnType::Integer),
/// #     ],
/// #     primary_key: vec![ColumnId(1)], foreign_keys: vec![], delete: Default::default(),
/// # };
/// let me = [("me".to_owned(), Value::text("ann"))];
/// let mine = Predicate::parse("owner = :me AND points BETWEEN 1 AND 5", &tasks, &me)?;
///
/// let (owner, points) = (Value::text("ann"), Value::Integer(3));
/// let row = |column: ColumnId| match column.0 {
///     2 => Some(&owner),
///     3 => Some(&points),
///     _ => None,
/// };
/// assert!(mine.matches(&row));
/// # Ok::<(), anabranch_shape::ShapeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Predicate {
    condition: Condition,
}

impl Predicate {
    /// Parses `text` and checks it against `table`; each `:name` stands for its value among
    /// `parameters`.
    pub fn parse(
        text: &str,
        table: &Table,
        parameters: &[(String, Value)],
    ) -> Result<Self, ShapeError> {
        let tokens = tokens::admitted(text)?;
        let mut parser = Parser::new(&PostgreSqlDialect {})
            .with_recursion_limit(limits::FILTER_DEPTH_MAX)
            .with_tokens_with_locations(tokens);
        let parsed = parser.parse_expr();
        let next = parser.peek_token();
        let expression = parsed.map_err(|error| tokens::syntax(error, &next))?;
        if next.token != Token::EOF {
            let message = format!(
                "the filter goes on after its end, at {:?}",
                next.to_string()
            );
            return Err(Problem::Syntax(message).at(tokens::place(next.span.start)));
        }
        Ok(Self {
            condition: check::condition(&expression, table, parameters)?,
        })
    }

    /// Whether the condition holds for a row, and not merely may.
    pub fn matches<'a>(&self, row: &impl Fn(ColumnId) -> Option<&'a Value>) -> bool {
        self.evaluate(row) == Some(true)
    }

    /// What the condition says of a row: true, false or, as `None`, unknown. `row` gives a column's
    /// value; a missing one counts as NULL. Allocates nothing.
    pub fn evaluate<'a>(&self, row: &impl Fn(ColumnId) -> Option<&'a Value>) -> Option<bool> {
        self.condition.evaluate(row)
    }

    /// The columns the condition looks at.
    pub fn columns(&self) -> BTreeSet<ColumnId> {
        let mut columns = BTreeSet::new();
        self.condition.collect_columns(&mut columns);
        columns
    }

    /// Whether the condition holds for every row, whatever is in it.
    pub(crate) fn is_always_true(&self) -> bool {
        self.condition == Condition::Constant(Some(true))
    }
}

/// One node of a condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Condition {
    /// True, false or unknown.
    Constant(Option<bool>),
    /// `AND`.
    All(Vec<Self>),
    /// `OR`.
    Any(Vec<Self>),
    /// `NOT`.
    Not(Box<Self>),
    /// `IS TRUE`, `IS FALSE`, `IS UNKNOWN`.
    Is(Box<Self>, Option<bool>),
    /// `IS NULL`.
    IsNull(ColumnId),
    /// A column against a value or another column of its type.
    Compare(Field, Comparison, Operand),
    /// `IN`, of values that are not NULL, in their order and each once.
    In(Field, Vec<Value>),
    /// `LIKE`.
    Like(Field, Pattern),
}

/// A column and its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Field {
    id: ColumnId,
    kind: ColumnType,
}

/// What a column is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Operand {
    /// A value, never NULL.
    Value(Value),
    /// A column of the same type.
    Column(ColumnId),
}

/// How a column is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// `IS DISTINCT FROM`: unequal, where NULL is equal to NULL; never unknown.
    Distinct,
}

impl Comparison {
    /// Whether it asks which of the two is greater.
    const fn orders(self) -> bool {
        !matches!(self, Self::Equal | Self::NotEqual | Self::Distinct)
    }

    /// The same comparison with its sides exchanged.
    const fn flipped(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            Self::Equal | Self::NotEqual | Self::Distinct => self,
        }
    }
}

impl Condition {
    fn collect_columns(&self, columns: &mut BTreeSet<ColumnId>) {
        match self {
            Self::Constant(_) => {}
            Self::All(parts) | Self::Any(parts) => {
                parts.iter().for_each(|part| part.collect_columns(columns));
            }
            Self::Not(inner) | Self::Is(inner, _) => inner.collect_columns(columns),
            Self::IsNull(column) => {
                columns.insert(*column);
            }
            Self::Compare(field, _, operand) => {
                columns.insert(field.id);
                if let Operand::Column(other) = operand {
                    columns.insert(*other);
                }
            }
            Self::In(field, _) | Self::Like(field, _) => {
                columns.insert(field.id);
            }
        }
    }
}
