//! Merging while local transactions wait for an outcome, beside the strategy that takes them back,
//! applies what has come, and does them again. Every case starts from a table of the same size,
//! filled with as many rows that are not pending as it takes.

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
        let all = keys(HELD_ROWS + 1 + BATCH * BATCHES);
        let (held, incoming) = all.split_at(HELD_ROWS);
        let (local, held) = held.split_at(pending);
        let (first, incoming) = incoming.split_at(1);
        let mut ours = || {
            let mut ours = Ours::new()?;
            ours.all(held, What::Row(HELD), BATCH)?;
            for key in local {
                ours.replica.transaction(|tx| insert(tx, key))?;
            }
            // The first merge reads the outbox once, which is opening's price, not merging's.
            ours.batch(changes(first, What::Row(HELD)))?;
            Ok(rate(
                incoming.len(),
                ours.all(incoming, What::Row(HELD), BATCH)?,
            ))
        };
        let mut limit = || {
            let mut plain = Plain::with_clock(&Ours::new()?.path())?;
            plain.all(held, What::Row(HELD), BATCH)?;
            for key in local {
                insert(&plain.conn, key)?;
            }
            let mut replaying = Replaying { plain, local };
            replaying.batch(changes(first, What::Row(HELD)))?;
            Ok(rate(
                incoming.len(),
                replaying.all(incoming, What::Row(HELD), BATCH)?,
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
            tx.prepare_cached("DELETE FROM t WHERE c1 = ?1")?
                .execute([key])?;
        }
        for change in &changes {
            apply(&tx, change)?;
        }
        for key in self.local {
            insert(&tx, key)?;
        }
        tx.commit()?;
        Ok(start.elapsed())
    }
}

fn insert(conn: &Connection, key: &str) -> rusqlite::Result<usize> {
    conn.prepare_cached("INSERT INTO t(c1, c2, c3, c4, c5) VALUES (?1, 'a', 'b', 'c', 'd')")?
        .execute([key])
}

/// Rows of the table before, pending or not.
const HELD_ROWS: usize = 20_000;

/// Rows that come at once, as often as it takes to be measured.
const BATCH: usize = 1_000;
const BATCHES: usize = 10;
