//! Conditions over rows, with SQL's three-valued logic: unknown is `None`.

use anabranch_crdt::{ColumnId, Value};

use super::{Comparison, Condition, Field, Operand};
use crate::datum::Datum;

impl Condition {
    pub(super) fn evaluate<'a>(
        &self,
        row: &impl Fn(ColumnId) -> Option<&'a Value>,
    ) -> Option<bool> {
        match self {
            Self::Constant(truth) => *truth,
            Self::All(parts) => fold(parts, false, row),
            Self::Any(parts) => fold(parts, true, row),
            Self::Not(inner) => inner.evaluate(row).map(|truth| !truth),
            Self::Is(inner, truth) => Some(inner.evaluate(row) == *truth),
            Self::IsNull(column) => Some(row(*column).is_none_or(|value| *value == Value::Null)),
            Self::Compare(field, comparison, operand) => {
                let left = field.read(row);
                let right = match operand {
                    Operand::Value(value) => Datum::read(field.kind, value),
                    Operand::Column(other) => Field {
                        id: *other,
                        ..*field
                    }
                    .read(row),
                };
                comparison.evaluate(left, right)
            }
            Self::In(field, values) => {
                let datum = field.read(row)?;
                let order = |value: &Value| Datum::read(field.kind, value).cmp(&Some(datum));
                Some(values.binary_search_by(order).is_ok())
            }
            Self::Like(field, pattern) => match field.read(row)? {
                Datum::Text(text) => Some(pattern.matches(text)),
                _ => None,
            },
        }
    }
}

/// `AND` and `OR`: one part that says `decisive` decides; otherwise one unknown part leaves the
/// whole unknown.
fn fold<'a>(
    parts: &[Condition],
    decisive: bool,
    row: &impl Fn(ColumnId) -> Option<&'a Value>,
) -> Option<bool> {
    let mut whole = Some(!decisive);
    for part in parts {
        match part.evaluate(row) {
            Some(truth) if truth == decisive => return Some(decisive),
            Some(_) => {}
            None => whole = None,
        }
    }
    whole
}

impl Field {
    fn read<'a>(self, row: &impl Fn(ColumnId) -> Option<&'a Value>) -> Option<Datum<'a>> {
        Datum::read(self.kind, row(self.id)?)
    }
}

impl Comparison {
    fn evaluate(self, left: Option<Datum<'_>>, right: Option<Datum<'_>>) -> Option<bool> {
        if self == Self::Distinct {
            return Some(left != right);
        }
        let order = left?.cmp(&right?);
        Some(match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual | Self::Distinct => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        })
    }
}
