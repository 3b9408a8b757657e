//! The protocol between a replica and the service: frames, their bytes, their limits, and the
//! sessions at both ends as state machines.
//!
//! Nothing here touches a socket, a file, a clock or a random generator: frames and the time go in,
//! frames and deadlines come out, and the same code runs under tokio, in tests and in the
//! simulator. Start with [`ClientFrame`] and [`ServerFrame`]; the bytes are in `docs/protocol.md`.

pub mod codec;
mod frames;
mod ids;
pub mod limits;
pub mod session;

pub use frames::{
    Change, ClientFrame, Inserts, LocalTransaction, RefusalCode, RejectCode, ServerFrame,
    ShapeRequest, Subscription,
};
pub use ids::{Cursor, Epoch, Position, Seq, SubscriptionId, SubscriptionSet};
