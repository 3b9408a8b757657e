//! What the scenarios share: a schema, replicas with a clock of their own, and a store in memory
//! that merges what they push. No scenario lies here.
#![allow(dead_code, missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anabranch_crdt::{
    ColumnId, Delta, Hlc, MergeKind, Millis, ReplicaId, RowKey, RowState, TableId, Value,
};
use anabranch_protocol::{
    Change, Cursor, Epoch, LocalTransaction, Position, Seq, ShapeRequest, SubscriptionId,
    SubscriptionSet,
};
use anabranch_replica::{OpenOptions, Replica, Synchronous, Welcome};
use anabranch_shape::schema::{Column, ColumnType, ForeignKey, ReferentialAction, Schema, Table};
use rusqlite::Connection;

pub const PROJECTS: TableId = TableId(1);
pub const TASKS: TableId = TableId(2);
pub const KEYED: TableId = TableId(3);
pub const NUMBERED: TableId = TableId(4);
pub const NAME: ColumnId = ColumnId(2);
pub const TITLE: ColumnId = ColumnId(2);
pub const DONE: ColumnId = ColumnId(3);
pub const PROJECT: ColumnId = ColumnId(4);

pub const DRIFT_MS: u64 = 300_000;
pub const START: u64 = 1_700_000_000_000;

/// What a service says that remembers everything.
pub fn welcome(server_time: Millis, merged_through: Seq) -> Welcome {
    Welcome {
        server_time,
        drift_max_ms: DRIFT_MS,
        merged_through,
        horizon: Hlc::ZERO,
    }
}

pub fn column(id: u16, name: &str, kind: ColumnType, nullable: bool) -> Column {
    Column {
        id: ColumnId(id),
        name: name.to_owned(),
        kind,
        declared_type: format!("{kind:?}"),
        nullable,
        has_default: false,
        bytewise_order: true,
        merge: Default::default(),
    }
}

pub fn table(id: TableId, name: &str, columns: Vec<Column>, key: &[u16]) -> Table {
    Table {
        id,
        namespace: "public".to_owned(),
        name: name.to_owned(),
        columns,
        primary_key: key.iter().map(|id| ColumnId(*id)).collect(),
        foreign_keys: Vec::new(),
        delete: Default::default(),
    }
}

/// Projects and their tasks, a table with a composite key, a table with an integer key.
pub fn schema() -> Schema {
    use ColumnType::{Boolean, Integer, Numeric, Text, Uuid};
    let projects = table(
        PROJECTS,
        "projects",
        vec![column(1, "id", Uuid, false), column(2, "name", Text, true)],
        &[1],
    );
    let mut created = column(5, "created", Text, false);
    created.has_default = true;
    let mut tasks = table(
        TASKS,
        "tasks",
        vec![
            column(1, "id", Uuid, false),
            column(2, "title", Text, false),
            column(3, "done", Boolean, true),
            column(4, "project", Uuid, true),
            created,
        ],
        &[1],
    );
    tasks.foreign_keys.push(ForeignKey {
        columns: vec![PROJECT],
        parent: PROJECTS,
        parent_columns: vec![ColumnId(1)],
        on_delete: ReferentialAction::Cascade,
        policy: Default::default(),
    });
    let keyed = table(
        KEYED,
        "keyed",
        vec![
            column(1, "tenant", Text, false),
            column(2, "number", Integer, false),
            column(3, "note", Text, true),
            column(4, "amount", Numeric, true),
        ],
        &[1, 2],
    );
    let numbered = table(
        NUMBERED,
        "numbered",
        vec![
            column(1, "id", Integer, false),
            column(2, "note", Text, true),
        ],
        &[1],
    );
    Schema {
        version: 1,
        tables: vec![projects, tasks, keyed, numbered],
    }
}

/// The schema in which keyed rows have a counter and a set.
pub fn counting() -> Schema {
    let mut schema = schema();
    let mut count = column(4, "amount", ColumnType::Integer, true);
    count.merge = MergeKind::Counter;
    let mut tags = column(5, "tags", ColumnType::Json, true);
    tags.merge = MergeKind::Set;
    schema.tables[2].columns.truncate(3);
    schema.tables[2].columns.extend([count, tags]);
    schema
}

/// A wall clock that the scenario sets.
#[derive(Clone)]
pub struct Clock(Arc<AtomicU64>);

impl Clock {
    pub fn new() -> Self {
        Self(Arc::new(AtomicU64::new(START)))
    }

    pub fn set(&self, ms: u64) {
        self.0.store(ms, Ordering::SeqCst);
    }

    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }

    pub fn now(&self) -> Millis {
        Millis(self.0.load(Ordering::SeqCst))
    }
}

pub fn options(clock: &Clock, id: u8) -> OpenOptions {
    let clock = clock.clone();
    OpenOptions {
        now: Arc::new(move || clock.now()),
        new_id: Box::new(move || ReplicaId([id; 16])),
        synchronous: Synchronous::Normal,
        busy_timeout: Duration::from_millis(50),
        ..OpenOptions::system()
    }
}

/// A replica in a directory of its own, with the schema adopted.
pub struct Site {
    pub replica: Replica,
    pub clock: Clock,
    pub path: PathBuf,
    pub _directory: tempfile::TempDir,
}

impl Site {
    pub fn new(id: u8) -> Self {
        Self::with_clock(id, Clock::new())
    }

    pub fn with_clock(id: u8, clock: Clock) -> Self {
        Self::adopting(id, clock, schema())
    }

    pub fn adopting(id: u8, clock: Clock, schema: Schema) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("replica.db");
        let mut replica = Replica::open(&path, options(&clock, id)).unwrap();
        replica.adopt_schema(schema).unwrap();
        replica.take_events();
        Self {
            replica,
            clock,
            path,
            _directory: directory,
        }
    }

    pub fn run(&mut self, sql: &str) -> Option<Seq> {
        self.clock.advance(1);
        self.replica
            .transaction(|tx| tx.execute_batch(sql))
            .unwrap()
            .seq
    }

    /// Every transaction waiting.
    pub fn pending(&self) -> Vec<LocalTransaction> {
        self.replica.pending(Seq(0), usize::MAX).unwrap()
    }

    pub fn last(&self) -> LocalTransaction {
        self.pending().pop().unwrap()
    }

    /// Merges transactions as if the service told them, with every row in no shape.
    pub fn hear(&mut self, transactions: &[LocalTransaction]) {
        for transaction in transactions {
            let changes = transaction
                .deltas
                .iter()
                .map(|delta| change(delta, SubscriptionSet::EMPTY));
            let changes = changes.collect();
            let cursor = Cursor {
                epoch: Epoch(1),
                position: Position(0),
            };
            self.replica
                .merge_transaction(cursor, SubscriptionSet::EMPTY, Vec::new(), changes)
                .unwrap();
        }
    }

    /// Keeps rows in no shape, as a subscription does whose snapshot has not come yet.
    pub fn keep_everything(&mut self) -> SubscriptionId {
        self.replica.subscribe(&shape("everything")).unwrap()
    }

    pub fn text(&self, sql: &str) -> Option<String> {
        text(self.replica.connection(), sql)
    }

    pub fn count(&self, table: &str) -> i64 {
        count(self.replica.connection(), table)
    }

    /// Another program's connection to the file, with SQLite's defaults.
    pub fn foreign(&self) -> Connection {
        open_foreign(&self.path)
    }

    /// The whole state of every row of every table.
    pub fn everything(&mut self) -> BTreeMap<String, Vec<(RowKey, Vec<u8>)>> {
        let tables = self.replica.schema().tables.clone();
        tables
            .into_iter()
            .map(|table| {
                let rows = self.replica.row_states(&table.name).unwrap();
                let rows = rows.into_iter().map(|(key, state)| (key, state.to_bytes()));
                (table.name, rows.collect())
            })
            .collect()
    }
}

pub fn open_foreign(path: &Path) -> Connection {
    Connection::open(path).unwrap()
}

pub fn text(conn: &Connection, sql: &str) -> Option<String> {
    conn.query_row(sql, [], |row| row.get(0)).unwrap()
}

pub fn count(conn: &Connection, table: &str) -> i64 {
    conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
        row.get(0)
    })
    .unwrap()
}

pub fn shape(name: &str) -> ShapeRequest {
    ShapeRequest::Named {
        name: name.to_owned(),
        parameters: Vec::new(),
    }
}

pub fn uuid(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

pub fn key(number: u32) -> RowKey {
    text_key(&uuid(number))
}

pub fn text_key(text: &str) -> RowKey {
    RowKey(vec![Value::text(text)])
}

pub fn change(delta: &Delta, shapes: SubscriptionSet) -> Change {
    Change {
        table: delta.table,
        key: delta.key.clone(),
        shapes,
        state: delta.state.clone(),
    }
}

pub fn delta(table: TableId, key: RowKey, state: RowState) -> Delta {
    Delta { table, key, state }
}

/// The columns that a delta writes.
pub fn written(delta: &Delta) -> Vec<u16> {
    delta.state.cells().map(|(column, ..)| column.0).collect()
}

/// A store in memory: merges what replicas push and tells it in order, with every row in every
/// shape.
#[derive(Default)]
pub struct Hub {
    pub rows: BTreeMap<(TableId, RowKey), RowState>,
    merged: BTreeSet<(ReplicaId, Seq)>,
    /// Who pushed it, its number, the rows' whole states after it.
    pub log: Vec<(ReplicaId, Seq, Vec<Delta>)>,
}

impl Hub {
    /// Takes every waiting transaction of a replica, once.
    pub fn push(&mut self, site: &Site) {
        for transaction in site.pending() {
            if self.merged.insert((site.replica.id(), transaction.seq)) {
                self.merge(site.replica.id(), &transaction);
            }
        }
    }

    fn merge(&mut self, replica: ReplicaId, transaction: &LocalTransaction) {
        let mut states = Vec::new();
        for told in &transaction.deltas {
            let held = self.rows.entry((told.table, told.key.clone())).or_default();
            let _ = held.merge(&told.state);
            states.push(delta(told.table, told.key.clone(), held.clone()));
        }
        self.log.push((replica, transaction.seq, states));
    }

    pub fn position(&self) -> u64 {
        self.log.len() as u64
    }

    /// Tells a replica the log from `from` on, with one live subscription.
    pub fn tell(&self, site: &mut Site, id: SubscriptionId, from: u64) {
        let from_index = usize::try_from(from).unwrap();
        for (at, (replica, seq, states)) in self.log.iter().enumerate().skip(from_index) {
            let own = *replica == site.replica.id();
            let accepted = if own { vec![*seq] } else { Vec::new() };
            let changes = states.iter().map(|state| {
                let inside = state.state.existence().is_present();
                change(
                    state,
                    if inside {
                        SubscriptionSet::only(id)
                    } else {
                        SubscriptionSet::EMPTY
                    },
                )
            });
            let changes = changes.collect();
            site.replica
                .merge_transaction(
                    cursor(at as u64 + 1),
                    SubscriptionSet::only(id),
                    accepted,
                    changes,
                )
                .unwrap();
        }
    }

    /// Subscribes a replica and shows it a snapshot of everything.
    pub fn snapshot(&self, site: &mut Site, id: SubscriptionId) {
        let present = self
            .rows
            .iter()
            .filter(|(_, state)| state.existence().is_present());
        let rows: Vec<Delta> = present
            .map(|((table, key), state)| delta(*table, key.clone(), state.clone()))
            .collect();
        for chunk in rows.chunks(2) {
            site.replica
                .stage_snapshot(id, chunk.to_vec(), rows.len() as u64)
                .unwrap();
        }
        site.replica
            .finish_snapshot(id, cursor(self.position()))
            .unwrap();
    }
}

pub fn cursor(position: u64) -> Cursor {
    Cursor {
        epoch: Epoch(1),
        position: Position(position),
    }
}
