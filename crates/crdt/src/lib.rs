//! The replicated data types of Anabranch: clocks, stamps, registers, existence, row state and
//! the one function that merges them.
//!
//! This crate does no IO, reads no clock, draws no randomness and knows no wire or disk format but
//! its own packed clocks: time comes in as an argument, identifiers come in as values. Types here
//! are deliberately not `Serialize`; the protocol crate owns their twins for the wire.
//!
//! A table is an observed-remove set of primary keys whose elements carry last-writer-wins
//! registers, [`Counter`]s and [`ElementSet`]s. A [`RowState`] is one element: its registers with
//! their stamps, its other columns, and its [`Existence`]. A partial row state is a *delta*, and [`merge()`] joins a delta into what is held:
//! commutative, associative and idempotent, so that deltas may come late, twice and in any order.
//!
//! ```
//! use anabranch_crdt::{ColumnId, Existence, Hlc, Millis, ReplicaId, RowState, Stamp, Value};
//!
//! let ann = Stamp::new(Hlc::new(Millis(1_000), 0)?, ReplicaId([1; 16]));
//! let bob = Stamp::new(Hlc::new(Millis(1_001), 0)?, ReplicaId([2; 16]));
//! let title = ColumnId(1);
//!
//! let mut row = RowState::live(ann);
//! row.set(title, ann, Value::text("draft"));
//! let mut edit = RowState::live(bob);
//! edit.set(title, bob, Value::text("final"));
//!
//! let mut other = edit.clone();
//! other.merge(&row);
//! row.merge(&edit);
//! assert_eq!(row, other);
//! assert_eq!(row.value(title), Some(&Value::text("final")));
//! # Ok::<(), anabranch_crdt::HlcError>(())
//! ```
#![no_std]
#![deny(clippy::arithmetic_side_effects)]

extern crate alloc;

mod clock;
mod codec;
mod column;
mod counter;
mod existence;
mod hlc;
mod ids;
mod json;
mod merge;
mod row;
mod set;
mod stamp;
mod value;

pub use clock::RowClock;
pub use codec::DecodeError;
pub use column::{ColumnState, MergeKind};
pub use counter::{Counter, Increment, Total};
pub use existence::{Entry, Existence, Life};
pub use hlc::{Hlc, HlcClock, HlcError, Millis};
pub use ids::{ColumnId, Delta, RowKey, TableId};
pub use merge::{Merged, merge, merge_first};
pub use row::RowState;
pub use set::{Element, ElementSet, elements_of, is_spelled};
pub use stamp::{ReplicaId, Stamp};
pub use value::{Real, Value};
