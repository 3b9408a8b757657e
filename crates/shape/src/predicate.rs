//! A compiled `where` condition: evaluated over rows, or rendered as SQL.
//! PLACEHOLDER to be written by the shape crate's author.

/// A checked condition over the rows of one table.
#[derive(Clone, Debug, PartialEq)]
pub struct Predicate {}
