//! What the service asks of a store, and what a store tells it. No implementation lies here.

use std::{future::Future, pin::Pin, sync::Arc};

use anabranch_crdt::{ColumnId, Delta, Hlc, ReplicaId, TableId};
use anabranch_protocol::{LocalTransaction, Position, RejectCode, Seq};
use anabranch_shape::{Predicate, schema::Schema};
use thiserror::Error;
use tokio::sync::mpsc;

/// A future on the heap, so that the interface can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the service replicates.
pub trait Store: Send + Sync + 'static {
    /// The schema of the replicated tables as it is now.
    fn schema(&self) -> BoxFuture<'_, Result<Arc<Schema>, StoreError>>;

    /// How a replica stands with the store, after forgetting the outcomes before `first_pending`, which
    /// it needs no more.
    fn greet(
        &self,
        replica: ReplicaId,
        first_pending: Seq,
    ) -> BoxFuture<'_, Result<Standing, StoreError>>;

    /// Merges transactions, each whole or not at all, those of one replica in their order, and each
    /// number once. The outcomes are in the order of the uploads; once this returns, they are durable.
    fn merge(&self, uploads: Vec<Upload>) -> BoxFuture<'_, Result<Vec<MergeOutcome>, StoreError>>;

    /// Forgets the rows that were removed before `horizon`, clocks and all; how many. A write to a row
    /// that the store does not have is from then on refused as stale, unless it inserts the row and is
    /// stamped after the horizon.
    fn forget_removed(&self, horizon: Hlc) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Starts reading the rows of a shape as of one moment.
    fn snapshot(&self, query: SnapshotQuery) -> BoxFuture<'_, Result<Snapshot, StoreError>>;

    /// Follows the log: sends each transaction that commits from now on, in commit order, with
    /// complete row states, after telling where the log stands ([`LogEvent::Idle`]). Returns once it
    /// follows; the channel closes when the log breaks off, and the service then starts again with a
    /// new epoch.
    fn follow(&self) -> BoxFuture<'_, Result<mpsc::Receiver<LogEvent>, StoreError>>;
}

/// How a replica stands with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its last transaction with an outcome; [`Seq`] 0 if there is none.
    pub merged_through: Seq,
    /// Rows that were removed before this may be forgotten, so the store takes nothing from before it
    /// for a row that it does not have.
    pub horizon: Hlc,
}

/// What the log tells.
#[derive(Clone, Debug)]
pub enum LogEvent {
    /// A transaction has committed.
    Transaction(StoreTransaction),
    /// Everything up to here has been told, though none of it concerned replicated tables.
    Idle(Position),
    /// The schema has changed; shapes of changed tables must be read again.
    SchemaChanged(Arc<Schema>),
}

/// A committed transaction of the store.
#[derive(Clone, Debug)]
pub struct StoreTransaction {
    /// Where its commit ends in the log.
    pub position: Position,
    /// The number that [`Visibility`] knows it by.
    pub id: u64,
    /// The replicas' transactions that were merged in it; empty for other programs' writes.
    pub origins: Vec<(ReplicaId, Seq)>,
    /// The rows it touched, at most one delta a row. The state of a row that is present is complete:
    /// every column, with its stamp.
    pub deltas: Vec<Delta>,
}

/// Which transactions a snapshot saw: a position in the log cannot tell, since in Postgres a
/// transaction may be in the log before it is visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visibility {
    /// Every transaction below this number was over.
    pub xmin: u64,
    /// No transaction from this number on was over.
    pub xmax: u64,
    /// Those in between that were still running, in order.
    pub running: Vec<u64>,
    /// A position read after the snapshot was taken: whatever lies beyond it was not seen.
    pub fence: Position,
}

impl Visibility {
    /// Whether the snapshot saw the transaction.
    pub fn saw(&self, transaction: &StoreTransaction) -> bool {
        let id = transaction.id;
        transaction.position <= self.fence
            && id < self.xmax
            && (id < self.xmin || self.running.binary_search(&id).is_err())
    }
}

/// A transaction that a replica pushed.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The replica.
    pub replica: ReplicaId,
    /// Its transaction.
    pub transaction: LocalTransaction,
    /// A hash of the transaction's content, to tell a resend from an equivocation.
    pub hash: [u8; 32],
}

impl Upload {
    /// Whether the delta at `place` can only be merged into a row that the store has: it says that the
    /// row lives, and does not hold the whole of it or lies before `horizon`.
    pub fn needs_row(&self, place: usize, horizon: Hlc) -> bool {
        let transaction = &self.transaction;
        let delta = transaction.deltas.get(place);
        let lives = delta.is_some_and(|delta| delta.state.existence().is_present());
        let is_whole = transaction.inserts.contains(place);
        lives && !(is_whole && transaction.stamp.hlc >= horizon)
    }
}

/// What became of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MergeOutcome {
    /// Merged now: the log will tell of it, and that tells the replica.
    Merged,
    /// Merged before: a resend. Acknowledged once the log has been told up to here.
    Duplicate(Position),
    /// Refused, now or at its first sending, and nothing of it was stored.
    Rejected(Rejection),
}

/// Why and how a transaction was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Why, for programs.
    pub code: RejectCode,
    /// Why, for people, naming the constraint or the column.
    pub reason: String,
    /// What the store holds of the refused rows, in the refused columns.
    pub rows: Vec<Delta>,
}

impl Rejection {
    /// Why a write to a row of `table` is refused that the store does not have, in words.
    pub fn stale_reason(table: &str) -> String {
        format!(
            "the row of {table} that it writes to is not there: it was deleted longer ago than the \
             store remembers, or its insert was refused; insert it whole to have it back"
        )
    }
}

/// The rows of a shape to read.
#[derive(Clone, Debug)]
pub struct SnapshotQuery {
    /// The table.
    pub table: TableId,
    /// The rows; every row where there is none.
    pub filter: Option<Arc<Predicate>>,
    /// The columns outside the key.
    pub columns: Vec<ColumnId>,
}

/// Rows being read as of one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Which transactions they include.
    pub visibility: Visibility,
    /// About how many rows there are.
    pub rows_estimate: u64,
    /// The rows in chunks of bounded size; the channel closes after the last. An error ends it.
    pub chunks: mpsc::Receiver<Result<Vec<Delta>, StoreError>>,
}

/// Why a store could not do as asked. None of these is the uploads' fault.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store cannot be reached or is too busy; worth trying again.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The store is not set up for replication; the message says what to do.
    #[error("{0}")]
    Misconfigured(String),
    /// What the store returned makes no sense: a defect, or somebody changed the side tables.
    #[error("the store's replication state is damaged: {0}")]
    Damaged(String),
}
