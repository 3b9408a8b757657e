//! What replication costs the application that writes, and the disk.

use std::{fs, path::Path, time::Duration};

use rusqlite::Connection;

use super::{
    BenchError, Figure, MergeOptions, Stopwatch, compare, number, rate,
    rows::{HELD, What, changes, keys, shuffled},
    sides::{Merge, Ours, Plain, insert},
};

/// Measures local writes and bytes on disk.
pub(super) fn cases(
    options: &MergeOptions,
    tell: &mut impl FnMut(Figure),
) -> Result<(), BenchError> {
    let keys = keys(options.rows);
    let few = keys.get(..options.rows.min(2_000)).unwrap_or(&keys);
    writes(options, "local_1000", &keys, 1_000, Write::Insert, tell)?;
    writes(
        options,
        "local_update_1000",
        &keys,
        1_000,
        Write::Update,
        tell,
    )?;
    writes(options, "local_1", few, 1, Write::Insert, tell)?;
    disk(options, &keys, tell)
}

/// What an application does to each row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Write {
    Insert,
    /// Sets one column.
    Update,
}

impl Write {
    fn run(self, conn: &Connection, keys: &[String]) -> rusqlite::Result<()> {
        let sql = match self {
            Self::Insert => {
                "INSERT INTO t(c1, c2, c3, c4, c5) VALUES (?1, 'some text', 'other', 'more', 'end')"
            }
            Self::Update => "UPDATE t SET c3 = 'changed' WHERE c1 = ?1",
        };
        let mut statement = conn.prepare_cached(sql)?;
        keys.iter()
            .try_for_each(|key| statement.execute([key]).map(drop))
    }
}

/// Local writes, so many rows a transaction.
fn writes(
    options: &MergeOptions,
    name: &'static str,
    keys: &[String],
    size: usize,
    write: Write,
    tell: &mut impl FnMut(Figure),
) -> Result<(), BenchError> {
    if !options.wants(name) {
        return Ok(());
    }
    let order = match write {
        Write::Insert => keys.to_vec(),
        Write::Update => shuffled(keys),
    };
    let mut ours = || {
        let mut ours = Ours::new()?;
        if write == Write::Update {
            ours.all(keys, What::Row(HELD), BATCH)?;
        }
        let mut taken = Duration::ZERO;
        for keys in order.chunks(size) {
            let start = Stopwatch::start();
            ours.replica.transaction(|tx| write.run(tx, keys))?;
            taken += start.elapsed();
        }
        Ok(rate(order.len(), taken))
    };
    let mut limit = || {
        let mut plain = Plain::without_clock(&Ours::new()?.path())?;
        if write == Write::Update {
            let tx = plain.conn.transaction()?;
            Write::Insert.run(&tx, keys)?;
            tx.commit()?;
        }
        let mut taken = Duration::ZERO;
        for keys in order.chunks(size) {
            let start = Stopwatch::start();
            let tx = plain.conn.transaction()?;
            write.run(&tx, keys)?;
            tx.commit()?;
            taken += start.elapsed();
        }
        Ok(rate(order.len(), taken))
    };
    tell(compare(
        options.rounds,
        name,
        "rows/s",
        &mut ours,
        &mut limit,
    )?);
    Ok(())
}

/// Bytes a row takes on disk.
fn disk(
    options: &MergeOptions,
    keys: &[String],
    tell: &mut impl FnMut(Figure),
) -> Result<(), BenchError> {
    if !options.wants("disk") {
        return Ok(());
    }
    let mut ours = || {
        let mut ours = Ours::new()?;
        let path = ours.path();
        let empty = file_bytes(&path)?;
        ours.all(keys, What::Row(HELD), BATCH)?;
        Ok((file_bytes(&path)? - empty) / number(keys.len()))
    };
    let mut limit = || {
        let mut plain = Plain::without_clock(&Ours::new()?.path())?;
        let path = plain.path();
        let empty = file_bytes(&path)?;
        for keys in keys.chunks(BATCH) {
            let tx = plain.conn.transaction()?;
            for change in changes(keys, What::Row(HELD)) {
                insert(&tx, &change)?;
            }
            tx.commit()?;
        }
        Ok((file_bytes(&path)? - empty) / number(keys.len()))
    };
    // Sizes do not vary.
    tell(compare(
        options.rounds.min(1),
        "disk",
        "bytes/row",
        &mut ours,
        &mut limit,
    )?);
    Ok(())
}

/// The file's size with nothing left in its log.
fn file_bytes(path: &Path) -> Result<f64, BenchError> {
    Connection::open(path)?.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let bytes = fs::metadata(path)?.len();
    Ok(number(usize::try_from(bytes).unwrap_or(usize::MAX)))
}

const BATCH: usize = 10_000;
