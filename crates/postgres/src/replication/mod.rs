//! Postgres's log over the streaming replication protocol: a connection of our own, since
//! tokio-postgres has no copy-both mode, the decoder of `pgoutput`, and the task that owns the socket.

mod connection;
mod pgoutput;
mod stream;

pub(crate) use connection::{Connection, connect};
pub(crate) use pgoutput::{Cell, Relation};
pub(crate) use stream::{LoggedTransaction, RowImage, Streamed, start};
