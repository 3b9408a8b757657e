//! Every bound of the embedded store, each with its reason.

use std::time::Duration;

/// Transactions kept in the log: a service that was away for longer reads its shapes again.
pub const LOG_ENTRIES_MAX: u64 = 100_000;

/// Bytes of values in one entry of the log, where other programs wrote more at once: such a bulk
/// load is told in parts, each of which fits a frame.
pub const LOG_ENTRY_BYTES: usize = 16 * 1024 * 1024;

/// Bytes that a row takes beside its values, about: its key and its clock.
pub const ROW_BYTES: usize = 100;

/// Transactions handed to a follower at once: bounds what is read into memory.
pub const LOG_ENTRIES_READ: u64 = 1_024;

/// Events waiting for a follower that is slow.
pub const FOLLOW_EVENTS: usize = 64;

/// How often the file is looked at for writes of other programs: SQLite tells nobody of them.
pub const FOREIGN_WRITES_POLL: Duration = Duration::from_millis(100);

/// Rows of one chunk of a snapshot.
pub const SNAPSHOT_CHUNK_ROWS: usize = 2_000;

/// Bytes of values of one chunk of a snapshot, about: what fits one frame fragment.
pub const SNAPSHOT_CHUNK_BYTES: usize = 200 * 1024;

/// Chunks of a snapshot waiting for its reader.
pub const SNAPSHOT_CHUNKS: usize = 4;

/// How often a snapshot is tried again when other programs write at that very moment.
pub const SNAPSHOT_TRIES: u32 = 50;

/// Rows looked at in one step when those removed long ago are forgotten: a merge waits for no longer.
pub const FORGET_STEP_ROWS: u32 = 10_000;

/// Generations of removed parents that come back with a child: a tree in one table can be deeper than
/// anybody would want restored, and the write is then refused.
pub const REVIVED_GENERATIONS_MAX: u32 = 64;
