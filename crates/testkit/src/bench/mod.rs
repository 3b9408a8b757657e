//! The merge benchmark: what the engine does a second, beside what SQLite alone does with the same
//! rows in the same run. It measures and returns figures; whoever calls it prints them.
//!
//! The limit is a plain table with one clock column and an upsert guarded by it: WAL,
//! `synchronous = NORMAL`, and the page size, cache and checkpoint interval of a replica. In every
//! round the two take turns at going first; a figure is the median of the rounds. Time spent waiting
//! for a processor that another program has does not count.

mod crsqlite;
mod extension;
mod local;
mod memory;
mod merging;
mod peak;
mod pending;
mod rows;
mod sides;

use std::time::{Duration, Instant};

use anabranch_replica::{OpenError, ReplicaError, TransactionError};
use thiserror::Error;

/// How much to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeOptions {
    /// Rows of the table.
    pub rows: usize,
    /// Rounds that a figure is the median of.
    pub rounds: usize,
    /// The cases to measure; all if there are none.
    pub cases: Vec<String>,
}

impl MergeOptions {
    /// Whether a case is asked for by its name: for those that take long.
    fn asks_for(&self, case: &str) -> bool {
        self.cases.iter().any(|wanted| wanted == case)
    }

    fn wants(&self, case: &str) -> bool {
        self.cases.is_empty() || self.asks_for(case)
    }
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self {
            rows: 100_000,
            rounds: 5,
            cases: Vec::new(),
        }
    }
}

/// The cases of the merge benchmark, in the order they are measured in; those of [`ON_REQUEST`] only
/// where they are asked for.
pub const CASES: [&str; 25] = [
    "memory",
    "memory_lose",
    "growth_ordered",
    "fresh",
    "fresh_ordered",
    "fresh_100",
    "fresh_1",
    "all_win",
    "all_win_100",
    "all_lose",
    "half",
    "single_column",
    "deletes",
    "ten_writers",
    "pending_0",
    "pending_1000",
    "pending_10000",
    "local_1000",
    "local_update_1000",
    "local_1",
    "disk",
    "peak_memory",
    "crsqlite_fresh",
    "crsqlite_all_win",
    "crsqlite_all_lose",
];

/// The cases that take long, to be asked for by name, and those beside cr-sqlite, to be asked for by
/// naming its extension in `CRSQLITE_PATH`.
pub const ON_REQUEST: [&str; 4] = [
    "growth_ordered",
    "crsqlite_fresh",
    "crsqlite_all_win",
    "crsqlite_all_lose",
];

/// One measured case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// What was measured.
    pub case: &'static str,
    /// The engine's figure.
    pub ours: f64,
    /// The same work by other means.
    pub limit: f64,
    /// What both count.
    pub unit: &'static str,
}

impl Figure {
    /// Ours over the limit's: above 1 is faster than the limit for rates, larger for sizes.
    pub fn ratio(&self) -> f64 {
        self.ours / self.limit
    }
}

/// Why a benchmark could not be run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BenchError {
    /// There is no room for its files, or no right to make them.
    #[error("cannot make the benchmark's files: {0}; see that TMPDIR has room")]
    Files(#[from] std::io::Error),
    /// The process that was to measure one side did not.
    #[error("a part of the benchmark ended with {0} and told nothing; see what it printed")]
    Child(std::process::ExitStatus),
    /// A replica cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A replica refused.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// A replica refused a local transaction.
    #[error(transparent)]
    Transaction(#[from] TransactionError<rusqlite::Error>),
    /// The plain table refused.
    #[error("SQLite: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// Runs every case, telling each figure as it is there.
pub fn merge(options: &MergeOptions, mut tell: impl FnMut(Figure)) -> Result<(), BenchError> {
    if peak::is_child() {
        return peak::measure(options);
    }
    memory::cases(options, &mut tell);
    merging::cases(options, &mut tell)?;
    pending::cases(options, &mut tell)?;
    local::cases(options, &mut tell)?;
    peak::cases(options, &mut tell)?;
    crsqlite::cases(options, &mut tell)
}

/// What one side measured in one round.
type Side<'a> = &'a mut dyn FnMut() -> Result<f64, BenchError>;

/// Lets the two sides measure in turn; the medians.
fn compare(
    rounds: usize,
    case: &'static str,
    unit: &'static str,
    ours: Side<'_>,
    limit: Side<'_>,
) -> Result<Figure, BenchError> {
    let (mut our, mut their) = (Vec::new(), Vec::new());
    for round in 0..rounds.max(1) {
        if round % 2 == 0 {
            our.push(ours()?);
            their.push(limit()?);
        } else {
            their.push(limit()?);
            our.push(ours()?);
        }
    }
    Ok(Figure {
        case,
        ours: median(our),
        limit: median(their),
        unit,
    })
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Measures time, less what the thread spent waiting for a processor while other programs had it,
/// where the system tells (Linux): a busy machine would else be measured with the work.
struct Stopwatch {
    start: Instant,
    waited: Duration,
}

impl Stopwatch {
    fn start() -> Self {
        Self {
            waited: waited(),
            start: Instant::now(),
        }
    }

    fn elapsed(&self) -> Duration {
        let taken = self.start.elapsed();
        taken.saturating_sub(waited().saturating_sub(self.waited))
    }
}

/// How long the thread has waited for a processor so far.
fn waited() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let waited = told.split_whitespace().nth(1);
    Duration::from_nanos(waited.and_then(|told| told.parse().ok()).unwrap_or(0))
}

/// So many in that time, as a rate a second.
fn rate(count: usize, taken: Duration) -> f64 {
    number(count) / taken.as_secs_f64()
}

/// A count as a floating-point number, exactly for every count there will be.
fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}
