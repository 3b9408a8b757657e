//! Anabranch keeps copies of a database on every machine that works with it: each copy is one ordinary
//! SQLite file that is read and written at once, offline or not, and merges never roll a write back.
//!
//! This crate is the embeddable half, with everything an application needs: a [`Replica`], and a
//! [`Client`] that keeps it in step with a service. The service, and the `anabranch` program that
//! runs it, are in the same package; the stores behind it are not re-exported here.
//!
//! ```no_run
//! use anabranch::{Client, ClientOptions, OpenOptions, Replica, ShapeRequest, Value};
//!
//! # async fn edit() -> Result<(), Box<dyn std::error::Error>> {
//! let mut replica = Replica::open("notes.db", OpenOptions::system())?;
//! replica.subscribe(&ShapeRequest::Spelled {
//!     table: "notes".into(),
//!     filter: Some("owner = :me".into()),
//!     columns: vec![],
//!     parameters: vec![("me".into(), Value::text("ann"))],
//! })?;
//!
//! // From here on the replica is kept in step in the background, whenever the service is in reach.
//! let url = "ws://127.0.0.1:4600/v1/sync";
//! let client = Client::start(replica, ClientOptions::new(url, ""));
//! client.settled().await;
//!
//! // A write lands in the file at once. It is sent when that is possible, and never taken back but
//! // where the store's own rules refuse it: then it is in `rejected_list`, whole, with the reason.
//! let sql = "UPDATE notes SET title = 'Anabranch' WHERE id = 1";
//! let committed = client.replica().transaction(|tx| tx.execute(sql, []))?;
//! println!("{} rows, transaction {:?}", committed.value, committed.seq);
//! # Ok(())
//! # }
//! ```
//!
//! Reading needs nothing of this: any program with any SQLite library reads the file's tables, and what
//! it writes to them is captured and sent as well.

pub use anabranch_client::{
    Changes, Client, ClientOptions, ConnectionState, DriveError, Driver, ReplicaGuard, RetryPolicy,
    Status,
};
pub use anabranch_crdt::{
    ColumnId, Delta, Existence, Hlc, Millis, Real, ReplicaId, RowClock, RowKey, RowState, Stamp,
    TableId, Value,
};
pub use anabranch_protocol::{
    Cursor, LocalTransaction, RejectCode, Seq, ShapeRequest, Subscription, SubscriptionId,
};
pub use anabranch_replica::{
    ChangeKind, Committed, Diff, Event, Finding, Fingerprint, LiveQuery, LiveQueryError,
    MergedOver, Observer, OpenError, OpenOptions, OrderError, Origin, Principal,
    RejectedTransaction, Replica, ReplicaError, ResultRow, RetainedShape, RowChange, SignOut,
    SubscriptionStatus, Synchronous, TransactionError, TransactionState, Trouble, examine,
    order_between, register_functions,
};
pub use anabranch_shape::schema;
