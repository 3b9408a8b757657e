//! Keeps a replica in step with the service over the network: connects, pushes, pulls, waits and
//! tries again, while the application reads and writes the replica as it likes.
//!
//! [`Driver`] is the logic, without sockets or tasks; [`Client`] runs it under tokio over a WebSocket.

mod changes;
mod client;
mod connection;
mod driver;
mod live;
mod shared;
mod status;
mod task;

pub use anabranch_protocol::session::RetryPolicy;
pub use changes::Changes;
pub use client::{Client, ClientOptions, ReplicaGuard};
pub use driver::{DriveError, Driver};
pub use status::{ConnectionState, Status};
