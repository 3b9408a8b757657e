//! The replica: one ordinary SQLite file with ordinary tables, and the engine over it.
//!
//! Every write lands there first, at once, offline or not. Triggers capture it, [`Replica`] seals it
//! into stamped transactions that wait in the outbox, and merges what the service tells: never
//! rolling a local write back. One SQLite transaction owns rows, clocks, outbox and cursors.
//!
//! There is no network here and no thread: a driver hands over what the service says and takes what
//! is pending. Start with [`Replica`]; the layer below it, which knows tables and clocks only, is
//! [`tables`].

mod error;
mod events;
mod file;
mod incoming;
pub mod limits;
mod options;
mod outbox;
mod replica;
mod status;
mod subscriptions;
pub mod tables;
mod turn;
mod verdict;

pub use error::{OpenError, ReplicaError, TransactionError};
pub use events::{Event, Origin};
pub use options::{OpenOptions, Synchronous};
pub use outbox::RejectedTransaction;
pub use replica::{Committed, Replica};
pub use status::Status;
pub use subscriptions::SubscriptionStatus;
pub use tables::{ChangeKind, RowChange};
