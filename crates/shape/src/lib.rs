//! The schema of a replicated database and the language of shapes: filtered, partial copies of it.
//!
//! Everything here is a pure function: a shape's `where` is parsed, checked against the schema and
//! compiled into a closed enum once, then evaluated over rows with SQL's three-valued logic, or
//! rendered as SQL for a store to evaluate. No socket, no file, no clock.

mod datum;
mod error;
pub mod limits;
mod moment;
mod numeric;
mod predicate;
pub mod rules;
pub mod schema;
mod shape;

pub use anabranch_crdt::MergeKind;
pub use error::{Place, Problem, ShapeError};
pub use predicate::{Dialect, Predicate, Sql};
pub use shape::Shape;
