//! The sides of a comparison: columns and literals, looked up and typed. Everything else that SQL
//! allows there is refused, by name where people are likely to write it.

use anabranch_crdt::Value;
use sqlparser::{
    ast::{self, Expr, Ident, UnaryOperator},
    tokenizer::Location,
};

use super::{
    check::comparison_of,
    literal::{Content, Literal, type_named},
    tokens,
};
use crate::{
    Place, Problem, ShapeError,
    error::listed,
    schema::{Column, ColumnType, Table},
};

/// What names in a filter can mean.
pub(super) struct Sides<'a> {
    pub(super) table: &'a Table,
    pub(super) parameters: &'a [(String, Value)],
}

/// One side of a comparison.
pub(super) enum Side<'a> {
    Column(&'a Column),
    Literal(Literal),
}

impl<'a> Sides<'a> {
    pub(super) fn side(&self, expression: &Expr) -> Result<Side<'a>, ShapeError> {
        let place = place_of(expression);
        let mut inner = expression;
        while let Expr::Nested(nested) = inner {
            inner = nested;
        }
        match inner {
            Expr::Identifier(name) => self.column(&[], name, place).map(Side::Column),
            Expr::CompoundIdentifier(names) => match names.split_last() {
                Some((name, qualifier)) => self.column(qualifier, name, place).map(Side::Column),
                None => Err(refused(inner)),
            },
            _ => self.literal(inner).map(Side::Literal),
        }
    }

    fn column(
        &self,
        qualifier: &[Ident],
        name: &Ident,
        place: Option<Place>,
    ) -> Result<&'a Column, ShapeError> {
        let table = self.table;
        if !qualifier.is_empty() {
            let qualifier: Vec<String> = qualifier.iter().map(folded).collect();
            let qualifier = qualifier.join(".");
            if qualifier != table.name && !table.is_called(&qualifier) {
                let known = table.local_name();
                return Err(Problem::UnknownTable {
                    name: qualifier,
                    known,
                }
                .at(place));
            }
        }
        let name = folded(name);
        table.column_named(&name).ok_or_else(|| {
            let known = listed(table.columns.iter().map(|column| column.name.as_str()));
            Problem::UnknownColumn {
                table: table.local_name(),
                name,
                known,
            }
            .at(place)
        })
    }

    fn literal(&self, expression: &Expr) -> Result<Literal, ShapeError> {
        let place = place_of(expression);
        match expression {
            Expr::Nested(inner) => self.literal(inner),
            Expr::Value(value) => self.plain(&value.value, place),
            Expr::UnaryOp {
                op: UnaryOperator::Minus,
                expr,
            } => self
                .literal(expr)?
                .negated()
                .ok_or_else(|| refused(expression)),
            Expr::UnaryOp {
                op: UnaryOperator::Plus,
                expr,
            } => {
                let literal = self.literal(expr)?;
                literal
                    .clone()
                    .negated()
                    .map(|_| literal)
                    .ok_or_else(|| refused(expression))
            }
            Expr::Cast {
                expr,
                data_type,
                format: None,
                kind,
            } if is_cast(kind) => {
                // Casts chain to any depth, so this looks before it descends.
                if matches!(**expr, Expr::Cast { .. }) {
                    return Err(Problem::Refused("a cast of a cast".to_owned()).at(place));
                }
                let literal = self.literal(expr)?;
                Ok(Literal {
                    cast: Some(cast_type(data_type, place)?),
                    ..literal
                })
            }
            Expr::TypedString(typed) => {
                let literal = self.plain(&typed.value.value, place)?;
                Ok(Literal {
                    cast: Some(cast_type(&typed.data_type, place)?),
                    ..literal
                })
            }
            other => Err(refused(other)),
        }
    }

    fn plain(&self, value: &ast::Value, place: Option<Place>) -> Result<Literal, ShapeError> {
        let content = match value {
            ast::Value::Null => Content::Null,
            ast::Value::Boolean(truth) => Content::Boolean(*truth),
            ast::Value::Number(digits, false) => Content::Number(digits.clone()),
            ast::Value::SingleQuotedString(text) => Content::Text(text.clone()),
            ast::Value::Placeholder(name) => {
                let name = name.trim_start_matches(':');
                let found = self.parameters.iter().find(|(known, _)| known == name);
                let (_, value) = found.ok_or_else(|| {
                    let known = listed(self.parameters.iter().map(|(known, _)| known.as_str()));
                    Problem::UnknownParameter {
                        name: name.to_owned(),
                        known,
                    }
                    .at(place)
                })?;
                return Ok(Literal::of_parameter(value, place));
            }
            other => return Err(Problem::Refused(format!("the literal {other}")).at(place)),
        };
        Ok(Literal {
            content,
            cast: None,
            place,
        })
    }
}

const fn is_cast(kind: &ast::CastKind) -> bool {
    matches!(kind, ast::CastKind::Cast | ast::CastKind::DoubleColon)
}

fn cast_type(data_type: &ast::DataType, place: Option<Place>) -> Result<ColumnType, ShapeError> {
    let name = data_type.to_string();
    type_named(&name).ok_or_else(|| Problem::Refused(format!("a cast to {name}")).at(place))
}

/// A name as Postgres reads it: in lower case, unless quoted.
fn folded(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_ascii_lowercase(),
    }
}

fn refused(expression: &Expr) -> ShapeError {
    let what = match expression {
        Expr::Function(function) => format!("the function {}", function.name),
        Expr::BinaryOp { op, .. } => match comparison_of(op) {
            Some(_) => "a condition as one side of a comparison".to_owned(),
            None => format!("the operator {op}"),
        },
        Expr::UnaryOp { op, .. } => format!("the operator {op} before anything but a number"),
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => {
            "a sign or a cast on a column".to_owned()
        }
        Expr::Tuple(_) => "a list of columns".to_owned(),
        Expr::IsNull(_) | Expr::IsNotNull(_) | Expr::InList { .. } | Expr::Between { .. } => {
            "a condition as one side of a comparison".to_owned()
        }
        _ => "this construct".to_owned(),
    };
    Problem::Refused(what).at(place_of(expression))
}

/// Where an expression begins. The tree may be as deep as the text is long, so this walks down its
/// left side instead of calling itself.
pub(super) fn place_of(expression: &Expr) -> Option<Place> {
    let mut rest = expression;
    let location: Location = loop {
        rest = match rest {
            Expr::Identifier(name) => break name.span.start,
            Expr::CompoundIdentifier(names) => break names.first()?.span.start,
            Expr::Value(value) => break value.span.start,
            Expr::TypedString(typed) => break typed.value.span.start,
            Expr::Function(function) => {
                break function.name.0.first()?.as_ident()?.span.start;
            }
            Expr::BinaryOp { left, .. } => left,
            Expr::IsDistinctFrom(left, _) | Expr::IsNotDistinctFrom(left, _) => left,
            Expr::Nested(inner)
            | Expr::UnaryOp { expr: inner, .. }
            | Expr::Cast { expr: inner, .. }
            | Expr::InList { expr: inner, .. }
            | Expr::Between { expr: inner, .. }
            | Expr::Like { expr: inner, .. }
            | Expr::IsNull(inner)
            | Expr::IsNotNull(inner)
            | Expr::IsTrue(inner)
            | Expr::IsNotTrue(inner)
            | Expr::IsFalse(inner)
            | Expr::IsNotFalse(inner)
            | Expr::IsUnknown(inner)
            | Expr::IsNotUnknown(inner) => inner,
            Expr::Tuple(parts) => parts.first()?,
            _ => return None,
        };
    };
    tokens::place(location)
}
