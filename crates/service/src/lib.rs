//! The service: keeps every replica's shapes current and merges what replicas push.
//!
//! [`hub`] is the logic, without IO: events in, frames and actions out. Everything else here is the
//! edge around it: the task that owns the hub, the tasks that merge and read for it, the WebSocket
//! connections. What a store is and does lies in `anabranch-store` and `anabranch-postgres`.

mod clock;
pub mod config;
mod connection;
mod engine;
mod housekeeping;
pub mod hub;
pub mod limits;
mod merging;
mod reading;
mod server;

pub use server::{SYNC_PATH, Service, StartError};
