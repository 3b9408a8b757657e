//! From the parser's tree to a condition: a walk that admits what it knows and refuses the rest,
//! and checks every comparison against the columns' types.

use anabranch_crdt::Value;
use sqlparser::ast::{BinaryOperator, Expr, UnaryOperator};

use super::{
    Comparison, Condition, Field, Operand,
    like::{ESCAPE, Pattern},
    literal::{Content, Literal, is_single_precision},
    side::{Side, Sides, place_of},
};
use crate::{
    Place, Problem, ShapeError,
    datum::Datum,
    limits,
    schema::{Column, ColumnType, Table},
};

/// Checks and compiles a parsed condition.
pub(super) fn condition(
    expression: &Expr,
    table: &Table,
    parameters: &[(String, Value)],
) -> Result<Condition, ShapeError> {
    Checker {
        sides: Sides { table, parameters },
        tests: 0,
        depth: 0,
    }
    .condition(expression)
}

struct Checker<'a> {
    sides: Sides<'a>,
    /// How many tests the condition has so far.
    tests: usize,
    /// How deep the walk is in the tree.
    depth: usize,
}

impl Checker<'_> {
    fn condition(&mut self, expression: &Expr) -> Result<Condition, ShapeError> {
        if self.depth > limits::FILTER_DEPTH_MAX {
            return Err(Problem::too_deep().at(place_of(expression)));
        }
        self.depth += 1;
        let checked = self.node(expression);
        self.depth -= 1;
        checked
    }

    fn node(&mut self, expression: &Expr) -> Result<Condition, ShapeError> {
        let place = place_of(expression);
        match expression {
            Expr::Nested(inner) => self.condition(inner),
            Expr::UnaryOp {
                op: UnaryOperator::Not,
                expr,
            } => Ok(not(self.condition(expr)?)),
            Expr::BinaryOp {
                op: op @ (BinaryOperator::And | BinaryOperator::Or),
                ..
            } => self.chain(expression, op),
            Expr::BinaryOp { left, op, right } => {
                let comparison = comparison_of(op)
                    .ok_or_else(|| Problem::Refused(format!("the operator {op}")).at(place))?;
                self.compare(left, comparison, right)
            }
            Expr::IsDistinctFrom(left, right) => self.compare(left, Comparison::Distinct, right),
            Expr::IsNotDistinctFrom(left, right) => {
                self.compare(left, Comparison::Distinct, right).map(not)
            }
            Expr::IsNull(inner) => self.is_null(inner),
            Expr::IsNotNull(inner) => self.is_null(inner).map(not),
            Expr::IsTrue(inner) => self.is(inner, Some(true)),
            Expr::IsNotTrue(inner) => self.is(inner, Some(true)).map(not),
            Expr::IsFalse(inner) => self.is(inner, Some(false)),
            Expr::IsNotFalse(inner) => self.is(inner, Some(false)).map(not),
            Expr::IsUnknown(inner) => self.is(inner, None),
            Expr::IsNotUnknown(inner) => self.is(inner, None).map(not),
            Expr::InList {
                expr,
                list,
                negated,
            } => self
                .in_list(expr, list)
                .map(|found| not_if(*negated, found)),
            Expr::Between {
                expr,
                negated,
                low,
                high,
            } => {
                let above = self.compare(expr, Comparison::GreaterOrEqual, low)?;
                let below = self.compare(expr, Comparison::LessOrEqual, high)?;
                Ok(not_if(*negated, Condition::All(vec![above, below])))
            }
            Expr::Like {
                negated,
                any: false,
                expr,
                pattern,
                escape_char,
            } => self
                .like(expr, pattern, escape_char.as_deref())
                .map(|like| not_if(*negated, like)),
            operand => match self.sides.side(operand)? {
                Side::Column(column) => self.bare(column, place),
                Side::Literal(literal) => truth(&literal),
            },
        }
    }

    /// `a AND b AND c`, which the parser leans to the left, as deep as it is long.
    fn chain(&mut self, expression: &Expr, op: &BinaryOperator) -> Result<Condition, ShapeError> {
        let mut links = Vec::new();
        let mut rest = expression;
        while let Expr::BinaryOp {
            left,
            op: this,
            right,
        } = rest
            && this == op
        {
            links.push(right.as_ref());
            rest = left;
        }
        links.push(rest);
        let mut parts = Vec::with_capacity(links.len());
        for link in links.into_iter().rev() {
            match (self.condition(link)?, op) {
                (Condition::All(nested), BinaryOperator::And)
                | (Condition::Any(nested), BinaryOperator::Or) => parts.extend(nested),
                (part, _) => parts.push(part),
            }
        }
        Ok(match op {
            BinaryOperator::And => Condition::All(parts),
            _ => Condition::Any(parts),
        })
    }

    fn compare(
        &mut self,
        left: &Expr,
        comparison: Comparison,
        right: &Expr,
    ) -> Result<Condition, ShapeError> {
        let place = place_of(left);
        match (self.sides.side(left)?, self.sides.side(right)?) {
            (Side::Column(column), Side::Literal(literal)) => {
                self.against_literal(column, comparison, &literal, place)
            }
            (Side::Literal(literal), Side::Column(column)) => {
                self.against_literal(column, comparison.flipped(), &literal, place)
            }
            (Side::Column(left), Side::Column(right)) => {
                self.against_column(left, comparison, right, place)
            }
            (Side::Literal(_), Side::Literal(_)) => {
                let what = "a comparison without a column (write TRUE or FALSE)";
                Err(Problem::Refused(what.to_owned()).at(place))
            }
        }
    }

    fn against_literal(
        &mut self,
        column: &Column,
        comparison: Comparison,
        literal: &Literal,
        place: Option<Place>,
    ) -> Result<Condition, ShapeError> {
        let field = self.comparable(column, comparison.orders(), place)?;
        Ok(match (literal.value(column)?, comparison) {
            (Some(value), _) => Condition::Compare(field, comparison, Operand::Value(value)),
            (None, Comparison::Distinct) => not(Condition::IsNull(column.id)),
            (None, _) => Condition::Constant(None),
        })
    }

    fn against_column(
        &mut self,
        left: &Column,
        comparison: Comparison,
        right: &Column,
        place: Option<Place>,
    ) -> Result<Condition, ShapeError> {
        let field = self.comparable(left, comparison.orders(), place)?;
        self.comparable(right, comparison.orders(), place)?;
        let alike = left.kind == right.kind
            && match left.kind {
                ColumnType::Enum => left.declared_type == right.declared_type,
                ColumnType::Float => is_single_precision(left) == is_single_precision(right),
                _ => true,
            };
        if !alike {
            return Err(Problem::Type(format!(
                "columns {:?} ({}) and {:?} ({}) do not compare: a filter compares columns of one \
                 type",
                left.name, left.declared_type, right.name, right.declared_type
            ))
            .at(place));
        }
        Ok(if left.id <= right.id {
            Condition::Compare(field, comparison, Operand::Column(right.id))
        } else {
            let field = Field {
                id: right.id,
                ..field
            };
            Condition::Compare(field, comparison.flipped(), Operand::Column(left.id))
        })
    }

    fn in_list(&mut self, expression: &Expr, list: &[Expr]) -> Result<Condition, ShapeError> {
        let place = place_of(expression);
        let Side::Column(column) = self.sides.side(expression)? else {
            let what = "IN without a column on its left";
            return Err(Problem::Refused(what.to_owned()).at(place));
        };
        if list.len() > limits::IN_LIST_MAX {
            let max = limits::IN_LIST_MAX;
            return Err(Problem::TooLarge {
                what: "a list of too many values",
                max,
            }
            .at(place));
        }
        let field = self.comparable(column, false, place)?;
        let (mut values, mut others) = (Vec::new(), Vec::new());
        for item in list {
            match self.sides.side(item)? {
                Side::Literal(literal) => match literal.value(column)? {
                    Some(value) => values.push(value),
                    None => others.push(Condition::Constant(None)),
                },
                Side::Column(other) => {
                    others.push(self.against_column(column, Comparison::Equal, other, place)?);
                }
            }
        }
        values.sort_by(|a, b| Datum::read(field.kind, a).cmp(&Datum::read(field.kind, b)));
        values.dedup();
        if !values.is_empty() {
            others.insert(0, Condition::In(field, values));
        }
        Ok(match <[Condition; 1]>::try_from(others) {
            Ok([only]) => only,
            Err(several) => Condition::Any(several),
        })
    }

    fn like(
        &mut self,
        expression: &Expr,
        pattern: &Expr,
        escape: Option<&Expr>,
    ) -> Result<Condition, ShapeError> {
        let place = place_of(expression);
        let column = match self.sides.side(expression)? {
            Side::Column(column) if column.kind == ColumnType::Text => column,
            _ => {
                let message = "LIKE takes a column of type text on its left";
                return Err(Problem::Type(message.to_owned()).at(place));
            }
        };
        let field = self.comparable(column, false, place)?;
        let escape = match escape {
            None => Some(ESCAPE),
            Some(escape) => self.escape(escape)?,
        };
        let place = place_of(pattern);
        match self.sides.side(pattern)? {
            Side::Literal(literal) => match literal.value(column)? {
                Some(Value::Text(text)) => {
                    let pattern = Pattern::parse(&text, escape).map_err(|why| why.at(place))?;
                    Ok(Condition::Like(field, pattern))
                }
                _ => Ok(Condition::Constant(None)),
            },
            Side::Column(_) => {
                Err(Problem::Refused("LIKE with a column as its pattern".to_owned()).at(place))
            }
        }
    }

    /// The character of `ESCAPE`; none where the string is empty.
    fn escape(&self, expression: &Expr) -> Result<Option<char>, ShapeError> {
        let text = match self.sides.side(expression)? {
            Side::Literal(Literal {
                content: Content::Text(text),
                ..
            }) => Some(text),
            _ => None,
        };
        let mut chars = text.as_deref().map(str::chars);
        match chars.as_mut().map(|chars| (chars.next(), chars.next())) {
            Some((escape, None)) => Ok(escape),
            _ => {
                let message = "ESCAPE takes a string of one character, or an empty one for none";
                Err(Problem::Type(message.to_owned()).at(place_of(expression)))
            }
        }
    }

    fn is_null(&mut self, inner: &Expr) -> Result<Condition, ShapeError> {
        if let Expr::Identifier(_) | Expr::CompoundIdentifier(_) = inner {
            let place = place_of(inner);
            if let Side::Column(column) = self.sides.side(inner)? {
                self.count(place)?;
                return Ok(Condition::IsNull(column.id));
            }
        }
        self.is(inner, None)
    }

    fn is(&mut self, inner: &Expr, truth: Option<bool>) -> Result<Condition, ShapeError> {
        Ok(Condition::Is(Box::new(self.condition(inner)?), truth))
    }

    /// A column where a condition belongs.
    fn bare(&mut self, column: &Column, place: Option<Place>) -> Result<Condition, ShapeError> {
        if column.kind != ColumnType::Boolean {
            return Err(Problem::Type(format!(
                "column {:?} is {}, not a condition; compare it with something",
                column.name, column.declared_type
            ))
            .at(place));
        }
        let field = self.comparable(column, false, place)?;
        let yes = Operand::Value(Value::Integer(1));
        Ok(Condition::Compare(field, Comparison::Equal, yes))
    }

    fn comparable(
        &mut self,
        column: &Column,
        orders: bool,
        place: Option<Place>,
    ) -> Result<Field, ShapeError> {
        self.count(place)?;
        let Column {
            name,
            declared_type,
            ..
        } = column;
        let refuse = |why: String| Err(Problem::Type(why).at(place));
        match column.kind {
            ColumnType::Json | ColumnType::Other => refuse(format!(
                "column {name:?} is {declared_type}, which a filter can only test with IS NULL"
            )),
            ColumnType::Enum if orders => refuse(format!(
                "column {name:?} is an enum, which a filter can only test for equality (=, <>, IN)"
            )),
            ColumnType::Text if orders && !column.bytewise_order => refuse(format!(
                "text in column {name:?} is ordered by the rules of a language, which replicas \
                 cannot follow; declare the column COLLATE \"C\" to order by it"
            )),
            kind => Ok(Field {
                id: column.id,
                kind,
            }),
        }
    }

    fn count(&mut self, place: Option<Place>) -> Result<(), ShapeError> {
        self.tests += 1;
        let max = limits::FILTER_TESTS_MAX;
        if self.tests > max {
            return Err(Problem::TooLarge {
                what: "too many tests",
                max,
            }
            .at(place));
        }
        Ok(())
    }
}

fn not(condition: Condition) -> Condition {
    Condition::Not(Box::new(condition))
}

fn not_if(negated: bool, condition: Condition) -> Condition {
    if negated { not(condition) } else { condition }
}

/// A literal where a condition belongs.
fn truth(literal: &Literal) -> Result<Condition, ShapeError> {
    let truth = match literal.content {
        Content::Null => None,
        Content::Boolean(truth) => Some(truth),
        Content::Integer(bit @ (0 | 1)) => Some(bit == 1),
        _ => {
            let message = "a value is not a condition; compare it with a column";
            return Err(Problem::Type(message.to_owned()).at(literal.place));
        }
    };
    Ok(Condition::Constant(truth))
}

pub(super) const fn comparison_of(op: &BinaryOperator) -> Option<Comparison> {
    Some(match op {
        BinaryOperator::Eq => Comparison::Equal,
        BinaryOperator::NotEq => Comparison::NotEqual,
        BinaryOperator::Lt => Comparison::Less,
        BinaryOperator::LtEq => Comparison::LessOrEqual,
        BinaryOperator::Gt => Comparison::Greater,
        BinaryOperator::GtEq => Comparison::GreaterOrEqual,
        _ => return None,
    })
}
