//! What the scenarios share: a store in a directory of its own with a clock that the scenario sets,
//! and uploads. No scenario lies here.
#![allow(dead_code, missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

pub mod peer;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anabranch_crdt::{
    ColumnId, Delta, Existence, Hlc, Millis, ReplicaId, RowKey, RowState, Stamp, TableId, Value,
};
use anabranch_protocol::{Inserts, LocalTransaction, Seq, codec::hash_transaction};
use anabranch_shape::rules::Rules;
use anabranch_store::{MergeOutcome, SnapshotQuery, Upload, embedded::EmbeddedCore};
use rusqlite::Connection;

pub const START: u64 = 1_700_000_000_000;

pub struct Site {
    pub core: EmbeddedCore,
    pub path: PathBuf,
    pub time: Arc<AtomicU64>,
    _directory: tempfile::TempDir,
}

impl Site {
    /// A store whose tables `sql` makes.
    pub fn new(sql: &str) -> Self {
        Self::with_rules(sql, &Rules::new())
    }

    /// The same, with rules for them.
    pub fn with_rules(sql: &str, rules: &Rules) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        let time = Arc::new(AtomicU64::new(START));
        EmbeddedCore::install_with(&path, &[], rules).unwrap();
        let core = open(&path, &time);
        Self {
            core,
            path,
            time,
            _directory: directory,
        }
    }

    pub fn reopen(&mut self) {
        self.core = open(&self.path, &self.time);
    }

    /// What another program does.
    pub fn run(&self, sql: &str) {
        let conn = Connection::open(&self.path).unwrap();
        conn.pragma_update(None, "foreign_keys", true).unwrap();
        conn.execute_batch(sql).unwrap();
    }

    pub fn text(&self, sql: &str) -> Option<String> {
        let conn = Connection::open(&self.path).unwrap();
        conn.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    pub fn table(&self, name: &str) -> TableId {
        self.core.schema().table_named(name).unwrap().id
    }

    /// Every row of a table, as a snapshot reads it, in key order.
    pub fn rows(&mut self, name: &str) -> Vec<(RowKey, RowState)> {
        let schema = self.core.schema();
        let table = schema.table_named(name).unwrap();
        let query = SnapshotQuery {
            table: table.id,
            filter: None,
            columns: table.registers().map(|column| column.id).collect(),
        };
        let (_, rows) = self.core.snapshot(&query).unwrap();
        let mut rows: Vec<_> = rows.into_iter().map(|row| (row.key, row.state)).collect();
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        rows
    }

    pub fn merge(&mut self, upload: Upload) -> MergeOutcome {
        self.core.merge(vec![upload]).unwrap().remove(0)
    }
}

fn open(path: &std::path::Path, time: &Arc<AtomicU64>) -> EmbeddedCore {
    let time = Arc::clone(time);
    EmbeddedCore::open(path, Box::new(move || Millis(time.load(Ordering::SeqCst)))).unwrap()
}

pub fn replica(id: u8) -> ReplicaId {
    ReplicaId([id; 16])
}

pub fn stamp(ms: u64, id: u8) -> Stamp {
    Stamp::new(Hlc::new(Millis(START + ms), 0).unwrap(), replica(id))
}

pub fn upload(id: u8, seq: u64, stamp: Stamp, deltas: Vec<Delta>) -> Upload {
    let transaction = LocalTransaction {
        seq: Seq(seq),
        stamp,
        inserts: Inserts::all(deltas.len()),
        replaces: 0,
        deltas,
    };
    let hash = hash_transaction(&transaction).unwrap();
    Upload {
        replica: replica(id),
        transaction,
        hash,
    }
}

pub fn key(number: i64) -> RowKey {
    RowKey(vec![Value::Integer(number)])
}

/// A delta that adds or updates a row.
pub fn write(table: TableId, key: RowKey, stamp: Stamp, cells: &[(u16, Value)]) -> Delta {
    let mut state = RowState::live(stamp);
    for (column, value) in cells {
        state.set(ColumnId(*column), stamp, value.clone());
    }
    Delta { table, key, state }
}

/// A delta that removes what it has seen of a row.
pub fn removal(table: TableId, key: RowKey, seen: &Existence) -> Delta {
    Delta {
        table,
        key,
        state: RowState::of_existence(seen.removal()),
    }
}
