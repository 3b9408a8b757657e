//! Every bound on what replicas can make the service hold, each with its reason.

/// Transactions of the store kept for replicas to resume from.
pub const LOG_TRANSACTIONS_MAX: usize = 20_000;

/// Bytes of row states kept for replicas to resume from. A replica further behind takes a snapshot.
pub const LOG_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Chunks of one snapshot read ahead of what the replica has taken.
pub const SNAPSHOT_CHUNKS_MAX: usize = 4;

/// How long a replica may keep rows of its snapshot waiting: the store keeps the snapshot open for it.
pub const SNAPSHOT_STALL_MAX_MS: u64 = 60_000;

/// Answers that wait for a replica to take them: more than it can be owed for a full credit of pushes
/// and all its subscriptions. One that asks on and takes none is cut off.
pub const ANSWERS_MAX: usize = 1024;

/// Outcomes told before credit is granted for them while there is something else to tell: a quarter of
/// what a replica may push, so that it need not wait.
pub const CREDIT_BATCH_MIN: usize = 64;

/// Transactions that a session passes over before it tells the replica where it stands, so that the
/// replica's cursor stays within the log.
pub const CURSOR_LAG_MAX: usize = 256;

/// Different shapes served at once.
pub const SHAPES_MAX: usize = 20_000;

/// Sessions served at once.
pub const SESSIONS_MAX: usize = 10_000;

/// How long a shape without subscribers is kept current, for replicas that come back.
pub const SHAPE_IDLE_MAX_MS: u64 = 10 * 60 * 1000;

/// Uploads merged in one transaction of the store: large enough to share its commit, small enough
/// that one bad transaction does not hold up many.
pub const MERGE_BATCH_MAX: usize = 256;

/// Frames queued between the hub and one connection's writer.
pub const WRITER_QUEUE_FRAMES: usize = 32;

/// Events queued for the hub before connections wait.
pub const HUB_QUEUE_EVENTS: usize = 1024;

/// How long a connection may take to say hello.
pub const HELLO_TIMEOUT_MS: u64 = 10_000;

/// How often an idle connection is pinged; two unanswered pings close it.
pub const PING_INTERVAL_MS: u64 = 20_000;

/// How long a replica may take over one fragment: at the slowest, some four kilobytes a second.
pub const WRITE_TIMEOUT_MS: u64 = 60_000;

/// How long a connection that is being closed waits for the replica to close it too.
pub const FAREWELL_MAX_MS: u64 = 2_000;

/// How long after its start a service first forgets rows that were deleted long ago.
pub const HOUSEKEEPING_DELAY_MS: u64 = 60_000;

/// How often it does so then: against a retention of days, an hour more or less is nothing.
pub const HOUSEKEEPING_PERIOD_MS: u64 = 60 * 60 * 1000;
