//! Keeps a replica in step with the service over the network: connects, pushes, pulls, waits and
//! tries again, while the application reads and writes the replica as it likes.
//!
//! [`Driver`] is the logic, without sockets or tasks; [`Client`] runs it under tokio over a WebSocket.

mod client;
mod connection;
mod driver;
mod live;

pub use client::{Client, ClientOptions, ConnectionState, Status};
pub use driver::{DriveError, Driver};
