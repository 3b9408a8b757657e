//! The whole engine at once: real replicas, the real service over real sockets, a real Postgres, and
//! other programs writing to it; with every process of it killed at some time.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bank;
mod convergence;
mod killed;
mod world;
