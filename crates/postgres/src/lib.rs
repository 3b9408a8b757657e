//! The Postgres store of Anabranch: installation, log tailer, snapshots, merge writer.
//!
//! The user's tables stay as they are, but for triggers that stamp what other programs write; clocks
//! lie beside them, in the schema `anabranch` (`schema/postgres.sql`). The merge writer merges in
//! Rust, with the function the replicas merge with; the tailer reads the log through a connection of
//! its own and tells the service of every commit. What the service asks of a store, and means by it,
//! is the interface in `anabranch-store`; nothing here speaks to replicas.
//!
//! Start with [`install`] and [`PostgresStore::connect`].

mod catalog;
mod clocks;
mod config;
mod errors;
mod install;
mod keys;
pub mod limits;
mod live;
mod pool;
mod replication;
mod rows;
mod rules;
mod snapshot;
mod store;
mod tailer;
mod values;
mod writer;

pub use config::PostgresOptions;
pub use install::{TableSelection, declare, install, install_with, uninstall};
pub use store::PostgresStore;
