//! A store in memory, in which a transaction may be in the log before a snapshot sees it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anabranch_crdt::{
    ColumnId, Delta, Hlc, Millis, ReplicaId, RowKey, RowState, Stamp, TableId, Value,
};
use anabranch_protocol::{Inserts, LocalTransaction, Position, RejectCode, Seq};
use anabranch_shape::{
    Shape,
    schema::{Column, ColumnType, Schema, Table},
};
use anabranch_store::{
    MergeOutcome, Rejection, SnapshotQuery, StoreTransaction, Upload, Visibility,
};

pub const SCHEMA_VERSION: u64 = 3;
pub const NOTES: TableId = TableId(1);
pub const OWNER: ColumnId = ColumnId(2);
pub const TITLE: ColumnId = ColumnId(3);

/// What a row becomes: its owner and title, or nothing.
pub type Write<'a> = (i64, Option<(i64, &'a str)>);

pub struct ModelStore {
    schema: Arc<Schema>,
    /// Everything committed, in order.
    pub log: Vec<StoreTransaction>,
    /// Transactions that are in the log and that new snapshots do not see.
    pub invisible: BTreeSet<u64>,
    pub position: Position,
    told: usize,
    marks: BTreeMap<(ReplicaId, Seq), Position>,
    clock: u64,
}

impl ModelStore {
    pub fn new() -> Self {
        Self {
            schema: Arc::new(schema()),
            log: Vec::new(),
            invisible: BTreeSet::new(),
            position: Position(0),
            told: 0,
            marks: BTreeMap::new(),
            clock: 500_000,
        }
    }

    pub fn schema(&self) -> Arc<Schema> {
        Arc::clone(&self.schema)
    }

    /// Another program writes; the position.
    pub fn write(&mut self, rows: &[Write<'_>]) -> Position {
        // A server write is stamped above whatever the rows hold.
        let states = rows.iter().filter_map(|(number, _)| self.state(*number));
        let newest = states.map(|state| state.clock().newest().millis().0).max();
        self.clock = self.clock.max(newest.unwrap_or_default()) + 1;
        let stamp = Stamp::new(Hlc::new(Millis(self.clock), 0).unwrap(), ReplicaId::SERVER);
        let deltas = rows.iter().map(|(number, becomes)| {
            let mut state = self.state(*number).unwrap_or_default();
            match becomes {
                Some((owner, title)) => {
                    state.existence_mut().add(stamp);
                    state.set(OWNER, stamp, Value::Integer(*owner));
                    state.set(TITLE, stamp, Value::text(title));
                }
                None => *state.existence_mut() = state.existence().removal(),
            }
            delta(*number, state)
        });
        let deltas = deltas.collect();
        self.commit(Vec::new(), deltas)
    }

    /// Many transactions, each of which adds a row of owner 9.
    pub fn fill(&mut self, count: usize) {
        for _ in 0..count {
            self.clock += 1;
            let stamp = Stamp::new(Hlc::new(Millis(self.clock), 0).unwrap(), ReplicaId::SERVER);
            let mut state = RowState::live(stamp);
            state.set(OWNER, stamp, Value::Integer(9));
            let number = 1_000_000 + self.log.len() as i64;
            self.commit(Vec::new(), vec![delta(number, state)]);
        }
    }

    /// Makes the newest transaction one that new snapshots do not see yet.
    pub fn hide_newest(&mut self) {
        self.invisible.extend(self.log.last().map(|entry| entry.id));
    }

    fn commit(&mut self, origins: Vec<(ReplicaId, Seq)>, deltas: Vec<Delta>) -> Position {
        self.position.0 += 10;
        self.log.push(StoreTransaction {
            position: self.position,
            id: self.log.len() as u64 + 100,
            origins,
            deltas,
        });
        self.position
    }

    /// A row's state after everything committed.
    pub fn state(&self, number: i64) -> Option<RowState> {
        self.rows_at(Position(u64::MAX)).remove(&key(number))
    }

    /// Every row's state after everything up to `position`.
    pub fn rows_at(&self, position: Position) -> BTreeMap<RowKey, RowState> {
        self.rows_of(|entry| entry.position <= position)
    }

    fn rows_of(&self, held: impl Fn(&StoreTransaction) -> bool) -> BTreeMap<RowKey, RowState> {
        let entries = self.log.iter().filter(|entry| held(entry));
        let deltas = entries.flat_map(|entry| &entry.deltas);
        deltas
            .map(|delta| (delta.key.clone(), delta.state.clone()))
            .collect()
    }

    /// The rows that a shape has after everything up to `position`.
    pub fn shape_at(&self, filter: &str, position: Position) -> BTreeMap<RowKey, RowState> {
        let filter = (!filter.is_empty()).then_some(filter);
        let shape = Shape::define(&self.schema, "notes", filter, &[], &[]).unwrap();
        let mut rows = self.rows_at(position);
        let table = self.schema.table(NOTES).unwrap();
        rows.retain(|key, state| shape.contains(key, state, table));
        rows
    }

    /// The rows that a transaction nobody sees yet has touched.
    pub fn locked(&self, number: i64) -> bool {
        let hidden = |entry: &&StoreTransaction| self.invisible.contains(&entry.id);
        let mut deltas = self
            .log
            .iter()
            .filter(hidden)
            .flat_map(|entry| &entry.deltas);
        deltas.any(|delta| delta.key == key(number))
    }

    pub fn visibility(&self) -> Visibility {
        let xmax = self.log.len() as u64 + 100;
        Visibility {
            xmin: self.invisible.first().copied().unwrap_or(xmax),
            xmax,
            running: self.invisible.iter().copied().collect(),
            fence: self.position,
        }
    }

    pub fn snapshot(&self, query: &SnapshotQuery) -> (Visibility, Vec<Delta>) {
        let visibility = self.visibility();
        let rows = self.rows_of(|entry| visibility.saw(entry));
        let table = self.schema.table(query.table).unwrap();
        let shape = Shape {
            table: query.table,
            filter: query.filter.clone(),
            columns: query.columns.clone(),
        };
        let inside = rows
            .into_iter()
            .filter(|(key, state)| shape.contains(key, state, table));
        let rows = inside.map(|(key, state)| Delta {
            table: query.table,
            key,
            state: shape.project(&state),
        });
        (visibility, rows.collect())
    }

    /// Merges as a store does; a title of `refuse` breaks a constraint.
    pub fn merge(&mut self, upload: &Upload) -> MergeOutcome {
        let LocalTransaction { seq, deltas, .. } = &upload.transaction;
        if let Some(position) = self.marks.get(&(upload.replica, *seq)) {
            return MergeOutcome::Duplicate(*position);
        }
        let refused = |delta: &&Delta| delta.state.value(TITLE) == Some(&Value::text("refuse"));
        if let Some(delta) = deltas.iter().find(refused) {
            return MergeOutcome::Rejected(Rejection {
                code: RejectCode::Constraint,
                reason: "titles must not ask for it".to_owned(),
                rows: vec![delta.clone()],
            });
        }
        let merged = deltas.iter().map(|delta| {
            let held = self.rows_at(Position(u64::MAX)).remove(&delta.key);
            let mut state = held.unwrap_or_default();
            let _ = state.merge(&delta.state);
            Delta {
                state,
                ..delta.clone()
            }
        });
        let merged = merged.collect();
        let position = self.commit(vec![(upload.replica, *seq)], merged);
        self.marks.insert((upload.replica, *seq), position);
        MergeOutcome::Merged
    }

    pub fn merged_through(&self, replica: ReplicaId) -> Seq {
        let own = self.marks.keys().filter(|(of, _)| *of == replica);
        own.map(|(_, seq)| *seq).max().unwrap_or_default()
    }

    /// Where a replica's transaction was merged.
    pub fn merged_at(&self, replica: ReplicaId, seq: Seq) -> Option<Position> {
        self.marks.get(&(replica, seq)).copied()
    }

    /// The next transaction that the service has not been told of.
    pub fn untold(&mut self) -> Option<StoreTransaction> {
        let next = self.log.get(self.told).cloned();
        self.told += usize::from(next.is_some());
        next
    }

    pub fn is_told(&self) -> bool {
        self.told == self.log.len()
    }
}

pub fn key(number: i64) -> RowKey {
    RowKey(vec![Value::Integer(number)])
}

pub fn delta(number: i64, state: RowState) -> Delta {
    Delta {
        table: NOTES,
        key: key(number),
        state,
    }
}

/// A transaction that a replica made, which writes one row.
pub fn local(replica: u8, seq: u64, number: i64, owner: i64, title: &str) -> LocalTransaction {
    let time = Millis(500_000 + seq);
    let stamp = Stamp::new(Hlc::new(time, 0).unwrap(), ReplicaId([replica; 16]));
    let mut state = RowState::live(stamp);
    state.set(OWNER, stamp, Value::Integer(owner));
    state.set(TITLE, stamp, Value::text(title));
    LocalTransaction {
        seq: Seq(seq),
        stamp,
        deltas: vec![delta(number, state)],
        inserts: Inserts::all(1),
        replaces: 0,
    }
}

fn schema() -> Schema {
    let column = |id, name: &str, kind| Column {
        id: ColumnId(id),
        name: name.to_owned(),
        kind,
        declared_type: String::new(),
        nullable: id != 1,
        has_default: false,
        bytewise_order: true,
        merge: Default::default(),
    };
    let table = |id, name: &str| Table {
        id,
        namespace: "public".to_owned(),
        name: name.to_owned(),
        columns: vec![
            column(1, "id", ColumnType::Integer),
            column(2, "owner", ColumnType::Integer),
            column(3, "title", ColumnType::Text),
        ],
        primary_key: vec![ColumnId(1)],
        foreign_keys: Vec::new(),
        delete: Default::default(),
    };
    Schema {
        version: SCHEMA_VERSION,
        tables: vec![table(NOTES, "notes"), table(TableId(2), "tags")],
    }
}
