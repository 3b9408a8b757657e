//! Every bound on what a replica holds, each with its reason.

use anabranch_protocol::limits::FRAME_BYTES_MAX;

/// Events, and rows listed in them, kept for an application that does not take them: beyond it the
/// oldest go, and the next one taken says so. Some tens of megabytes.
pub const EVENTS_MAX: usize = 100_000;

/// Rows that one event lists: more are told as tables to be read again, since an application would
/// do that anyway.
pub const EVENT_ROWS_MAX: usize = 10_000;

/// Transactions waiting in the outbox: years of work offline by hand, or a runaway program.
pub const OUTBOX_TRANSACTIONS_MAX: u64 = 1_000_000;

/// How long rows of a shape that was unsubscribed from are retained, where the application asks for
/// that: a working week, after which what is shown at once would mislead more than it helps.
pub const RETAINED_AGE_MAX_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// Bytes of transactions that are squashed into one: a refusal takes all of them back, and a frame holds
/// many.
pub const SQUASHED_BYTES_MAX: usize = 64 * 1024;

/// Bytes of one transaction: what fits a frame with room for what surrounds it.
pub const TRANSACTION_BYTES_MAX: usize = FRAME_BYTES_MAX / 2;

/// Bytes of a key of an ordered list: some two thousand insertions into ever the same gap, after which
/// the list wants new keys.
pub const ORDER_KEY_BYTES_MAX: usize = 512;

/// Unsealed writes that a live query of some rows looks through for one to them; beyond it, it takes
/// them to be among them. Sealing is seldom behind by more than a few.
pub(crate) const CAPTURED_LOOKED_AT_MAX: usize = 1_000;

/// Replicas whose stamps one file can hold: as many as fit the three bytes that a packed clock has
/// for the number of one.
pub const REPLICAS_MAX: u32 = (1 << 21) - 1;

/// Counts of changes that lie beside a transaction of the outbox: the tables that local writes go to
/// mostly are fewer, and each takes twelve bytes of every transaction that waits.
pub(crate) const COUNTS_CARRIED_MAX: usize = 16;

/// Statements kept prepared on a connection: about eight a table, for the tables in use at once.
pub(crate) const STATEMENTS_CACHED: usize = 512;

/// Bytes of a page of a new file: measured, larger ones merge faster and smaller ones write less
/// for a single row.
pub(crate) const PAGE_BYTES: u32 = 8_192;

/// Page cache of a connection at most, in KiB: a transaction that outgrows it writes pages more than
/// once.
pub(crate) const CACHE_KIB: u32 = 65_536;

/// Pages of the write-ahead log before it is copied into the file: 32 MiB, since a batch of 10,000
/// rows writes some 16, and copying at every commit writes most pages twice.
pub(crate) const WAL_PAGES: u32 = 4_096;
