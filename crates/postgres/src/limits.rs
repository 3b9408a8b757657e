//! Every bound on what the Postgres store holds or waits for, each with its reason.

use std::time::Duration;

/// Connections for merging, reading and snapshots together: well below Postgres's default of 100,
/// of which applications want the most.
pub const CONNECTIONS_MAX: usize = 12;

/// Snapshots read at one time: each holds back vacuum and keeps a connection busy.
pub const SNAPSHOTS_MAX: usize = 4;

/// Prepared statements kept per connection; one statement serves one table and one set of columns.
pub const STATEMENTS_MAX: usize = 256;

/// Rows of one chunk of a snapshot.
pub const CHUNK_ROWS_MAX: usize = 2_000;

/// Bytes of values after which a chunk of a snapshot is closed: one fragment on the wire.
pub const CHUNK_BYTES_MAX: usize = 200 * 1024;

/// Chunks of a snapshot read ahead of its consumer.
pub const CHUNKS_AHEAD: usize = 2;

/// Rows counted before a snapshot's size is taken from the planner's statistics instead.
pub const COUNTED_ROWS_MAX: i64 = 10_000;

/// Bytes of one transaction of the log held in memory. Above it the log breaks off behind the
/// transaction, and shapes are read again from a snapshot.
pub const TRANSACTION_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Transactions of the log read ahead of the tailer.
pub const TRANSACTIONS_AHEAD: usize = 64;

/// Log events that wait for the service.
pub const EVENTS_AHEAD: usize = 64;

/// Rows read again in one statement, where the log alone does not tell a row's state.
pub const REREAD_ROWS_MAX: usize = 1_000;

/// Times a merge is tried while locks or concurrent inserts are in its way.
pub const MERGE_ATTEMPTS_MAX: u32 = 10;

/// Times a merge finds a row at odds with its clock before it mends the clock: the first times, a
/// concurrent insert is the likelier reason.
pub const MEND_AFTER_ATTEMPTS: u32 = 2;

/// Generations of removed parents that come back with a child: a tree in one table can be deeper than
/// anybody would want restored, and the write is then refused.
pub const REVIVED_GENERATIONS_MAX: u32 = 64;

/// The wait before a merge's second attempt; it doubles with each further one.
pub const MERGE_BACKOFF: Duration = Duration::from_millis(10);

/// How long a merge waits for a lock. Half of Postgres's `deadlock_timeout`, so that in a deadlock
/// the merge gives way and never the application.
pub const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// How long to wait for a connection to be made.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time between two reports to Postgres of what has been received.
pub const FEEDBACK_PERIOD_MAX: Duration = Duration::from_secs(10);

/// How long to wait for another session to let go of the replication slot: as long as Postgres may
/// need to notice that a service has died.
pub const SLOT_WAIT_MAX: Duration = Duration::from_secs(60);

/// How long the creation of a slot may wait for transactions that were already running.
pub const SLOT_CREATION_MAX: Duration = Duration::from_secs(60);

/// Tombstones looked at in one transaction when those of long ago are forgotten: their rows are locked
/// for as long as it takes.
pub const FORGET_STEP_ROWS: i64 = 1_000;

/// Bytes of one message from Postgres: its own bound on a field is 1 GiB.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024 * 1024;
