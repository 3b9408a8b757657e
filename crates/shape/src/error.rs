//! Why a shape cannot be defined as asked: where, what, and what would be accepted.

use core::fmt;

use thiserror::Error;

use crate::limits;

/// Why a shape cannot be defined as asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}{problem}", Prefix(*.place))]
pub struct ShapeError {
    /// Where in the filter's text, where that is known.
    pub place: Option<Place>,
    /// What is wrong.
    pub problem: Problem,
}

/// A place in a filter's text; both numbers count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The character in the line.
    pub column: u64,
}

/// What is wrong with a shape's definition.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Problem {
    /// No table has this name.
    #[error("there is no table {name:?}; there are: {known}")]
    UnknownTable {
        /// The name.
        name: String,
        /// The tables there are.
        known: String,
    },
    /// The table has no column of this name.
    #[error("table {table:?} has no column {name:?}; it has: {known}")]
    UnknownColumn {
        /// The table.
        table: String,
        /// The name.
        name: String,
        /// The columns there are.
        known: String,
    },
    /// No value was given for a parameter.
    #[error("there is no value for the parameter :{name}; values were given for: {known}")]
    UnknownParameter {
        /// The parameter's name.
        name: String,
        /// The parameters there are.
        known: String,
    },
    /// The text is not a condition.
    #[error("{0}")]
    Syntax(String),
    /// The text is SQL, but not part of the language.
    #[error(
        "{0} cannot be part of a shape's filter; it may be made of columns, literals, :parameters, \
         comparisons, AND, OR, NOT, IN, BETWEEN, LIKE and IS"
    )]
    Refused(String),
    /// The condition makes no sense for the column's type.
    #[error("{0}")]
    Type(String),
    /// Beyond one of the limits.
    #[error("the filter has {what}; at most {max} are allowed")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        max: usize,
    },
}

impl Problem {
    /// This problem, at a place that may be known.
    pub(crate) const fn at(self, place: Option<Place>) -> ShapeError {
        ShapeError {
            place,
            problem: self,
        }
    }

    /// The filter nests too deep.
    pub(crate) const fn too_deep() -> Self {
        Self::TooLarge {
            what: "too many levels",
            max: limits::FILTER_DEPTH_MAX,
        }
    }
}

impl From<Problem> for ShapeError {
    fn from(problem: Problem) -> Self {
        problem.at(None)
    }
}

struct Prefix(Option<Place>);

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |Place { line, column }| {
            write!(f, "line {line}, column {column}: ")
        })
    }
}

/// Names for a message: in their order, separated, `none` where there are none.
pub(crate) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}
