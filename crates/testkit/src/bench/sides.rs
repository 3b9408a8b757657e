//! The two sides: a replica, and a plain table that a guarded upsert merges into.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anabranch_crdt::{ColumnId, Value};
use anabranch_protocol::{Change, Cursor, Epoch, Position, ShapeRequest, SubscriptionSet};
use anabranch_replica::{OpenOptions, Replica};
use rusqlite::{Connection, params, params_from_iter};
use tempfile::TempDir;

use super::{
    BenchError, Stopwatch,
    rows::{What, changes, schema},
};

/// Something that changes are merged into.
pub(super) trait Merge {
    /// Merges one batch in one transaction; how long that took.
    fn batch(&mut self, changes: Vec<Change>) -> Result<Duration, BenchError>;

    /// Merges the rows with these keys, `size` a batch; how long the merging took. The changes are
    /// made a batch at a time, so that memory holds one batch and time none of the making.
    fn all(&mut self, keys: &[String], what: What, size: usize) -> Result<Duration, BenchError> {
        let mut taken = Duration::ZERO;
        for keys in keys.chunks(size) {
            taken += self.batch(changes(keys, what))?;
        }
        Ok(taken)
    }
}

/// The engine.
pub(super) struct Ours {
    pub(super) replica: Replica,
    position: u64,
    folder: TempDir,
}

impl Ours {
    /// An empty replica that follows the table.
    pub(super) fn new() -> Result<Self, BenchError> {
        let folder = tempfile::tempdir()?;
        let mut replica = Replica::open(folder.path().join(FILE), OpenOptions::system())?;
        replica.adopt_schema(schema())?;
        let shape = ShapeRequest::Named {
            name: "t".to_owned(),
            parameters: Vec::new(),
        };
        let id = replica.subscribe(&shape)?;
        replica.finish_snapshot(id, Cursor::default())?;
        Ok(Self {
            replica,
            position: 0,
            folder,
        })
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join(FILE)
    }
}

impl Merge for Ours {
    fn batch(&mut self, changes: Vec<Change>) -> Result<Duration, BenchError> {
        self.position += 1;
        let cursor = Cursor {
            epoch: Epoch(0),
            position: Position(self.position),
        };
        let start = Stopwatch::start();
        self.replica
            .merge_transaction(cursor, SubscriptionSet(1), Vec::new(), changes)?;
        let taken = start.elapsed();
        // As a driver does, which hands them to the application.
        self.replica.take_events();
        Ok(taken)
    }
}

/// SQLite alone.
pub(super) struct Plain {
    pub(super) conn: Connection,
    folder: TempDir,
}

impl Plain {
    /// The table with one clock column.
    pub(super) fn with_clock(like: &Path) -> Result<Self, BenchError> {
        Self::new(like, ", hlc INTEGER")
    }

    /// The table as an application without replication has it.
    pub(super) fn without_clock(like: &Path) -> Result<Self, BenchError> {
        Self::new(like, "")
    }

    /// A table in a file with the settings of the replica's at `like`.
    fn new(like: &Path, clock: &str) -> Result<Self, BenchError> {
        let page_bytes: i64 =
            Connection::open(like)?.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        let folder = tempfile::tempdir()?;
        let conn = Connection::open(folder.path().join(FILE))?;
        conn.execute_batch(&format!(
            "PRAGMA page_size = {page_bytes}; PRAGMA journal_mode = WAL;
             PRAGMA synchronous = NORMAL; PRAGMA cache_size = -65536;
             PRAGMA wal_autocheckpoint = {WAL_PAGES};
             CREATE TABLE t(c1 TEXT PRIMARY KEY NOT NULL, c2 TEXT, c3 TEXT, c4 TEXT, c5 TEXT{clock});"
        ))?;
        Ok(Self { conn, folder })
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join(FILE)
    }
}

impl Merge for Plain {
    fn batch(&mut self, changes: Vec<Change>) -> Result<Duration, BenchError> {
        let start = Stopwatch::start();
        let tx = self.conn.transaction()?;
        for change in &changes {
            apply(&tx, change)?;
        }
        tx.commit()?;
        drop(changes);
        Ok(start.elapsed())
    }
}

/// Merges one change as a program does that keeps one clock a row.
pub(super) fn apply(conn: &Connection, change: &Change) -> Result<(), BenchError> {
    let key = change.key.0.first().map_or("", text);
    let hlc = change.state.clock().newest().to_i64();
    let cells = change.state.cells().len();
    if cells == 0 {
        conn.prepare_cached("DELETE FROM t WHERE c1 = ?1 AND hlc <= ?2")?
            .execute((key, hlc))?;
    } else if cells == 1 {
        let Some((column, _, value)) = change.state.cells().next() else {
            return Ok(());
        };
        conn.prepare_cached(column_upsert(column))?
            .execute((key, text(value), hlc))?;
    } else {
        let value = |at: u16| change.state.value(ColumnId(at)).map_or("", text);
        conn.prepare_cached(UPSERT)?.execute(params![
            key,
            value(2),
            value(3),
            value(4),
            value(5),
            hlc
        ])?;
    }
    Ok(())
}

/// Inserts a row as a program does that keeps no clock.
pub(super) fn insert(conn: &Connection, change: &Change) -> Result<(), BenchError> {
    let values = change
        .key
        .0
        .iter()
        .chain(change.state.cells().map(|(.., value)| value));
    conn.prepare_cached("INSERT INTO t VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params_from_iter(values.map(text)))?;
    Ok(())
}

fn text(value: &Value) -> &str {
    match value {
        Value::Text(text) => text,
        _ => "",
    }
}

const fn column_upsert(column: ColumnId) -> &'static str {
    match column.0 {
        2 => {
            "INSERT INTO t(c1, c2, hlc) VALUES (?1, ?2, ?3) ON CONFLICT(c1) DO UPDATE SET
             c2 = excluded.c2, hlc = excluded.hlc WHERE excluded.hlc > hlc"
        }
        3 => {
            "INSERT INTO t(c1, c3, hlc) VALUES (?1, ?2, ?3) ON CONFLICT(c1) DO UPDATE SET
             c3 = excluded.c3, hlc = excluded.hlc WHERE excluded.hlc > hlc"
        }
        4 => {
            "INSERT INTO t(c1, c4, hlc) VALUES (?1, ?2, ?3) ON CONFLICT(c1) DO UPDATE SET
             c4 = excluded.c4, hlc = excluded.hlc WHERE excluded.hlc > hlc"
        }
        _ => {
            "INSERT INTO t(c1, c5, hlc) VALUES (?1, ?2, ?3) ON CONFLICT(c1) DO UPDATE SET
             c5 = excluded.c5, hlc = excluded.hlc WHERE excluded.hlc > hlc"
        }
    }
}

const UPSERT: &str = "INSERT INTO t VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT(c1) DO UPDATE SET
     c2 = excluded.c2, c3 = excluded.c3, c4 = excluded.c4, c5 = excluded.c5,
     hlc = excluded.hlc WHERE excluded.hlc > hlc";

const FILE: &str = "bench.db";
/// The checkpoint interval of a replica.
const WAL_PAGES: u32 = 4_096;
