//! cr-sqlite beside the engine, where `CRSQLITE_PATH` names its extension: the same rows in the same
//! batches, merged by inserting into `crsql_changes` what a second database has recorded.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, params_from_iter, types::Value};

use super::{
    BenchError, Figure, MergeOptions, Stopwatch, compare, extension, merging, rate,
    rows::{keys, shuffled},
    sides::{Ours, Plain},
};

/// Measures every case that both have.
pub(super) fn cases(
    options: &MergeOptions,
    tell: &mut impl FnMut(Figure),
) -> Result<(), BenchError> {
    let Some(path) = env::var_os("CRSQLITE_PATH").map(PathBuf::from) else {
        return Ok(());
    };
    let cases = [
        ("crsqlite_fresh", "fresh"),
        ("crsqlite_all_win", "all_win"),
        ("crsqlite_all_lose", "all_lose"),
    ];
    if !cases.iter().any(|(name, _)| options.wants(name)) {
        return Ok(());
    }
    let told = Told::new(&path, options.rows)?;
    for (name, case) in cases.into_iter().filter(|(name, _)| options.wants(name)) {
        let mut ours = || merging::ours(case, options.rows);
        let mut theirs = || Ok(rate(options.rows, told.merge(&path, case)?));
        let rounds = options.rounds;
        tell(compare(rounds, name, "rows/s", &mut ours, &mut theirs)?);
    }
    Ok(())
}

/// The changes of one row, as `crsql_changes` tells them.
type Changes = Vec<Vec<Value>>;

/// What another database tells: every row as it was inserted, and as it was updated.
struct Told {
    old: Vec<Changes>,
    new: Vec<Changes>,
    /// The rows in another order.
    shuffled: Vec<usize>,
}

impl Told {
    fn new(extension: &Path, rows: usize) -> Result<Self, BenchError> {
        let mut author = Crr::new(extension)?;
        let keys = keys(rows);
        let places: Vec<usize> = (0..rows).collect();
        let old = author.write(
            &keys,
            "INSERT INTO t VALUES (?1, '2 of ' || substr(?1, 1, 8), '3 of ' || substr(?1, 1, 8), \
             '4 of ' || substr(?1, 1, 8), '5 of ' || substr(?1, 1, 8))",
        )?;
        let new = author.write(
            &keys,
            "UPDATE t SET c2 = 'two of it', c3 = 'three of it', c4 = 'four of it', \
             c5 = 'five of it' WHERE c1 = ?1",
        )?;
        Ok(Self {
            old,
            new,
            shuffled: shuffled(&places),
        })
    }

    /// Merges what a case brings into what it begins with; how long the former took.
    fn merge(&self, extension: &Path, case: &str) -> Result<Duration, BenchError> {
        let mut crr = Crr::new(extension)?;
        let ordered: Vec<&Changes> = self.old.iter().collect();
        let fresh = crr.merge(&ordered)?;
        let shuffled = |told: &'_ [Changes]| -> Vec<Changes> {
            let of = self.shuffled.iter().filter_map(|place| told.get(*place));
            of.cloned().collect()
        };
        let (old, new) = (shuffled(&self.old), shuffled(&self.new));
        match case {
            "fresh" => Ok(fresh),
            "all_win" => crr.merge(&new.iter().collect::<Vec<_>>()),
            _ => {
                crr.merge(&new.iter().collect::<Vec<_>>())?;
                crr.merge(&old.iter().collect::<Vec<_>>())
            }
        }
    }
}

/// A database whose table cr-sqlite replicates.
struct Crr {
    plain: Plain,
    /// The newest change that was told.
    version: i64,
}

impl Crr {
    fn new(path: &Path) -> Result<Self, BenchError> {
        let plain = Plain::without_clock(&Ours::new()?.path())?;
        extension::load(&plain.conn, path)?;
        let crr = Self { plain, version: 0 };
        crr.conn()
            .query_row("SELECT crsql_as_crr('t')", [], |_| Ok(()))?;
        Ok(crr)
    }

    const fn conn(&self) -> &Connection {
        &self.plain.conn
    }

    /// Runs `sql` for every key in one transaction; what is to be told of each row.
    fn write(&mut self, keys: &[String], sql: &str) -> Result<Vec<Changes>, BenchError> {
        let tx = self.plain.conn.transaction()?;
        for key in keys {
            tx.prepare_cached(sql)?.execute([key])?;
        }
        tx.commit()?;
        let sql = format!("SELECT {COLUMNS} FROM crsql_changes WHERE db_version > ?1 ORDER BY seq");
        let mut query = self.plain.conn.prepare(&sql)?;
        let mut rows = query.query([self.version])?;
        let mut told: Vec<Changes> = Vec::new();
        while let Some(row) = rows.next()? {
            let change = (0..9)
                .map(|at| row.get(at))
                .collect::<Result<Vec<Value>, _>>()?;
            self.version = self.version.max(row.get(5)?);
            match told.last_mut() {
                Some(last) if last.first().and_then(|first| first.get(1)) == change.get(1) => {
                    last.push(change);
                }
                _ => told.push(vec![change]),
            }
        }
        Ok(told)
    }

    /// Merges what was told of these rows; how long it took.
    fn merge(&mut self, rows: &[&Changes]) -> Result<Duration, BenchError> {
        let sql = format!(
            "INSERT INTO crsql_changes({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
        );
        let start = Stopwatch::start();
        for batch in rows.chunks(BATCH) {
            let tx = self.plain.conn.transaction()?;
            {
                let mut insert = tx.prepare_cached(&sql)?;
                for change in batch.iter().copied().flatten() {
                    insert.execute(params_from_iter(change))?;
                }
            }
            tx.commit()?;
        }
        Ok(start.elapsed())
    }
}

impl Drop for Crr {
    fn drop(&mut self) {
        // It holds statements of its own, with which no connection can be closed.
        let finalize = "SELECT crsql_finalize()";
        let _ = self.conn().query_row(finalize, [], |_| Ok(()));
    }
}

const COLUMNS: &str = "\"table\", pk, cid, val, col_version, db_version, site_id, cl, seq";
const BATCH: usize = 10_000;
