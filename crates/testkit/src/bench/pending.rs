//! Merging while local transactions wait for an outcome, beside the strategy that takes them back,
//! applies what has come, and does them again. The rows that come in are known and nothing is pending
//! on them; the transactions wait on others of the same table, which is the same in every case.

use std::time::Duration;

use anabranch_protocol::Change;
use rusqlite::Connection;

use super::{
    BenchError, Figure, MergeOptions, Stopwatch, compare, rate,
    rows::{HELD, What, changes, keys},
    sides::{Merge, Ours, Plain, apply},
};

/// Measures batches of 1,000 incoming rows with ever more transactions pending.
pub(super) fn cases(
    options: &MergeOptions,
    tell: &mut impl FnMut(Figure),
) -> Result<(), BenchError> {
    let cases = [
        ("pending_0", 0),
        ("pending_1000", 1_000),
        ("pending_10000", 10_000),
    ];
    for (name, pending) in cases.into_iter().filter(|(name, _)| options.wants(name)) {
        let all = keys(PENDING_MAX + BATCH * (BATCHES + 1));
        let (others, incoming) = all.split_at(PENDING_MAX);
        let (first, incoming) = incoming.split_at(BATCH);
        let local = others.get(..pending).unwrap_or(others);
        let mut ours = || {
            let mut ours = Ours::new()?;
            ours.all(&all, What::Row(HELD), HELD_BATCH)?;
            for key in local {
                ours.replica.transaction(|tx| update(tx, key, MINE))?;
            }
            // The first merge reads the outbox once, which is opening's price, not merging's.
            ours.batch(changes(first, What::Row(HELD + 1)))?;
            empty_log(ours.replica.connection())?;
            Ok(rate(
                incoming.len(),
                ours.all(incoming, What::Row(HELD + 1), BATCH)?,
            ))
        };
        let mut limit = || {
            let mut plain = Plain::with_clock(&Ours::new()?.path())?;
            plain.all(&all, What::Row(HELD), HELD_BATCH)?;
            for key in local {
                update(&plain.conn, key, MINE)?;
            }
            let mut replaying = Replaying { plain, local };
            replaying.batch(changes(first, What::Row(HELD + 1)))?;
            empty_log(&replaying.plain.conn)?;
            Ok(rate(
                incoming.len(),
                replaying.all(incoming, What::Row(HELD + 1), BATCH)?,
            ))
        };
        tell(compare(
            options.rounds,
            name,
            "rows/s",
            &mut ours,
            &mut limit,
        )?);
    }
    Ok(())
}

/// Rolls pending writes back, applies, replays.
struct Replaying<'a> {
    plain: Plain,
    local: &'a [String],
}

impl Merge for Replaying<'_> {
    fn batch(&mut self, changes: Vec<Change>) -> Result<Duration, BenchError> {
        let start = Stopwatch::start();
        let tx = self.plain.conn.transaction()?;
        for key in self.local.iter().rev() {
            update(&tx, key, BEFORE)?;
        }
        for change in &changes {
            apply(&tx, change)?;
        }
        for key in self.local {
            update(&tx, key, MINE)?;
        }
        tx.commit()?;
        Ok(start.elapsed())
    }
}

fn update(conn: &Connection, key: &str, text: &str) -> rusqlite::Result<usize> {
    conn.prepare_cached("UPDATE t SET c2 = ?2 WHERE c1 = ?1")?
        .execute([key, text])
}

/// So that what was written before is not copied into the file while merging is measured.
fn empty_log(conn: &Connection) -> rusqlite::Result<()> {
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

/// What a pending write says, and what it is taken back to.
const MINE: &str = "written here";
const BEFORE: &str = "2 of 00000000";

/// Rows that may have writes pending on them.
const PENDING_MAX: usize = 10_000;

/// Rows that come at once, as often as it takes to be measured.
const BATCH: usize = 1_000;
const BATCHES: usize = 30;
const HELD_BATCH: usize = 10_000;
