//! The interface between the service and what it replicates, and the embedded SQLite store.
//!
//! Two stores stand behind it: Postgres (in its own crate) and one SQLite file, which needs no
//! server. Both merge with `anabranch-crdt`'s one merge function and keep rows, clocks and
//! exactly-once marks in one transaction of the store.

pub mod columns;
pub mod embedded;
mod interface;

pub use interface::{
    BoxFuture, LogEvent, MergeOutcome, Rejection, Snapshot, SnapshotQuery, Standing, Store,
    StoreError, StoreTransaction, Upload, Visibility,
};
