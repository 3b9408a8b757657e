//! The embedded store: one SQLite file as the service's store, with no server beside it.
//!
//! The tables in it are their owner's: ordinary ones, made with SQL and read and written by any
//! program. It is the replica's own machinery, writing as the server: triggers capture what other
//! programs write, clocks lie in side tables, and the merge is the same function. Start with
//! [`EmbeddedStore`], or with [`EmbeddedCore`] where there is no runtime.

mod catalog;
mod core;
mod error;
mod file;
mod forget;
pub mod limits;
mod log;
mod policies;
mod reader;
mod store;
mod writer;

pub use self::core::{EmbeddedCore, WallClock};
pub use store::EmbeddedStore;
