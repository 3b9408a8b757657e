//! The replica: one ordinary SQLite file with ordinary tables, and the engine over it.
//!
//! Every write lands there first, at once, offline or not. Triggers capture it, [`Replica`] seals
//! it into stamped transactions that wait in the outbox, and merges what the service tells: never
//! rolling a local write back. One SQLite transaction owns rows, clocks, outbox and cursors.
//!
//! There is no network here and no thread: a driver hands over what the service says and takes what
//! is pending. Start with [`Replica`]; the layer below it, which knows tables and clocks only, is
//! [`tables`].
//!
//! ```
//! use anabranch_crdt::{ColumnId, TableId};
//! use anabranch_protocol::Seq;
//! use anabranch_replica::{OpenOptions, Replica};
//! use anabranch_shape::schema::{Column, ColumnType, Schema, Table};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("replica.db");
//! let mut replica = Replica::open(&path, OpenOptions::system())?;
//! # let column = |id, name: &str| Column {
//! #     id: ColumnId(id), name: name.into(), kind: ColumnType::Text, declared_type: "text".into(),
//! #     nullable: id > 1, has_default: false, bytewise_order: true, merge: Default::default(),
//! # };
//! # let table = Table {
//! #     id: TableId(1), namespace: "public".into(), name: "note".into(),
//! #     columns: vec![column(1, "id"), column(2, "body")],
//! #     primary_key: vec![ColumnId(1)], foreign_keys: vec![], delete: Default::default(),
//! # };
//! # let schema = Schema { version: 1, tables: vec![table] };
//! replica.adopt_schema(schema)?; // as the service tells it when welcoming the replica
//! let committed = replica.transaction(|tx| {
//!     tx.execute("INSERT INTO note(id, body) VALUES ('a', 'written offline')", [])
//! })?;
//! assert_eq!(committed.seq, Some(Seq(1)));
//! assert_eq!(replica.pending(Seq(0), usize::MAX)?.len(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod account;
mod doctor;
mod error;
mod file;
mod incoming;
pub mod limits;
mod numbers;
mod options;
mod outbox;
mod replica;
mod sql;
mod subscriptions;
pub mod tables;
mod turn;
mod watch;

pub use account::principal::{Fingerprint, NoFingerprint, Principal};
pub use account::sign_out::SignOut;
pub use doctor::{Finding, Trouble, examine};
pub use error::{OpenError, ReplicaError, TransactionError};
pub use incoming::merged_over::MergedOver;
pub use options::{OpenOptions, Synchronous};
pub use outbox::{RejectedTransaction, TransactionState};
pub use replica::{Committed, Greeted, Replica, Welcome};
pub use sql::functions::register_functions;
pub use sql::order::{OrderError, order_between};
pub use subscriptions::{RetainedShape, SubscriptionStatus};
pub use tables::{ChangeKind, RowChange};
pub use watch::events::{Event, Origin};
pub use watch::live::{Diff, LiveQuery, LiveQueryError, ResultRow};
pub use watch::observe::Observer;
pub use watch::status::Status;
