//! One history: batches of random SQL by random writers, with turns of the engine between, and the
//! checks after each turn.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use anabranch_crdt::{ColumnId, RowKey, RowState, TableId, Value};
use anabranch_protocol::Seq;
use anabranch_replica::{
    Replica, examine,
    tables::values::{canonical, from_sql},
};
use anabranch_shape::schema::{Schema, Table};
use rusqlite::Connection;

use crate::{
    common::{Clock, Site, options},
    random::Random,
    statements::Batch,
    tables::{additions, columns, rebuild, schema},
    writers::{Writer, has_program},
};

/// The rows of the tables: by table and key, the values of the other columns.
type Rows = BTreeMap<(TableId, RowKey), Vec<Value>>;

pub struct History {
    random: Random,
    schema: Schema,
    site: Site,
    /// Another replica, which hears everything that this one seals.
    mirror: Site,
    model: BTreeMap<(TableId, RowKey), RowState>,
    /// The last transaction that the model has.
    seen: Seq,
    sealed: usize,
}

impl History {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let schema = schema();
        let site = Site::adopting(1, Clock::new(), schema.clone());
        let mut mirror = Site::adopting(2, Clock::new(), schema.clone());
        mirror.keep_everything();
        let conn = site.foreign();
        conn.pragma_update(None, "foreign_keys", false).unwrap();
        for sql in additions(&mut random) {
            conn.execute_batch(&sql).unwrap();
        }
        drop(conn);
        let mut history = Self {
            random,
            schema,
            site,
            mirror,
            model: BTreeMap::new(),
            seen: Seq(0),
            sealed: 0,
        };
        // What the engine can only know after its next turn: which triggers there should be.
        history.site.replica.seal().unwrap();
        history
    }

    /// Plays it; how many transactions were captured.
    pub fn play(mut self) -> usize {
        let program = has_program();
        for _ in 0..16 {
            let batch = Batch::new(&mut self.random);
            let mut writer = Writer::pick(&mut self.random);
            if let (Writer::Program { foreign_keys }, false) = (writer, program) {
                writer = Writer::Foreign { foreign_keys };
            }
            self.batch(writer, &batch);
            self.upkeep();
        }
        self.check();
        for (table, states) in self.site.everything() {
            let other = &self.mirror.everything()[&table];
            equal(
                &states.into_iter().collect(),
                &other.iter().cloned().collect(),
                &table,
            );
        }
        assert_eq!(examine(&self.site.path, false).unwrap(), []);
        assert_eq!(examine(&self.mirror.path, false).unwrap(), []);
        self.sealed
    }

    fn batch(&mut self, writer: Writer, batch: &Batch) {
        let alone = batch.is_update || batch.rolled_back;
        if alone {
            self.check();
        }
        let before = alone.then(|| rows_of(self.site.replica.connection(), &self.schema));
        writer.run(&mut self.site, batch);
        let Some(before) = before else {
            if self.random.once_in(2) {
                self.check();
            }
            return;
        };
        let after = rows_of(self.site.replica.connection(), &self.schema);
        let cells = self.check();
        let changed = difference(&self.schema, &before, &after);
        assert_eq!(
            cells, changed,
            "captured and changed by {writer:?}: {batch:?}"
        );
    }

    /// What else may happen to a file between writes.
    fn upkeep(&mut self) {
        let conn = self.site.foreign();
        match self.random.below(24) {
            0 => conn.execute_batch("VACUUM").unwrap(),
            1 => conn
                .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
                .unwrap_or(()),
            2 => {
                let clock = self.site.clock.clone();
                self.site.replica = Replica::open(&self.site.path, options(&clock, 1)).unwrap();
            }
            3 => {
                let sql = format!("ALTER TABLE pair ADD COLUMN mine_{}", self.sealed);
                let _ = conn.execute_batch(&format!("{sql}; UPDATE pair SET v = v"));
            }
            4 => self.rebuild(&conn),
            _ => {}
        }
    }

    fn rebuild(&mut self, conn: &Connection) {
        conn.pragma_update(None, "foreign_keys", false).unwrap();
        let table = self.random.pick(&["typed", "slot"]);
        let steps = rebuild(&self.schema, table, self.random.once_in(2));
        conn.execute_batch(&format!("BEGIN; {}; COMMIT", steps.join(";")))
            .unwrap();
        // Until the engine has had a turn, nothing is captured there.
        self.check();
    }

    /// Seals, brings model and mirror up to date, and compares; the cells of what was new.
    fn check(&mut self) -> BTreeSet<(TableId, RowKey, ColumnId)> {
        self.site.clock.advance(1);
        self.site.replica.seal().unwrap();
        let news = self.site.replica.pending(self.seen, usize::MAX).unwrap();
        let mut cells = BTreeSet::new();
        for transaction in &news {
            self.seen = transaction.seq;
            self.sealed += 1;
            assert!(!transaction.deltas.is_empty());
            for delta in &transaction.deltas {
                let row = (delta.table, delta.key.clone());
                let written = delta.state.cells();
                cells.extend(written.map(|(column, ..)| (row.0, row.1.clone(), column)));
                let _ = self.model.entry(row).or_default().merge(&delta.state);
            }
        }
        self.mirror.hear(&news);
        let found = rows_of(self.site.replica.connection(), &self.schema);
        equal(
            &found,
            &rows_of_model(&self.schema, &self.model),
            "the model",
        );
        let mirrored = rows_of(self.mirror.replica.connection(), &self.schema);
        equal(&found, &mirrored, "the other replica");
        cells
    }
}

/// Fails with what differs, and no more.
fn equal<K: Ord + Debug, V: PartialEq + Debug>(
    found: &BTreeMap<K, V>,
    other: &BTreeMap<K, V>,
    what: &str,
) {
    let keys: BTreeSet<&K> = found.keys().chain(other.keys()).collect();
    let differ = keys
        .into_iter()
        .filter(|key| found.get(key) != other.get(key));
    let differ: Vec<String> = differ
        .map(|key| {
            format!(
                "{key:?}: {:?} here, {:?} in {what}",
                found.get(key),
                other.get(key)
            )
        })
        .collect();
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

/// The rows as any program reads them, in canonical form.
fn rows_of(conn: &Connection, schema: &Schema) -> Rows {
    let mut out = Rows::new();
    for table in &schema.tables {
        let sql = format!("SELECT {} FROM {}", columns(table), table.name);
        let mut query = conn.prepare(&sql).unwrap();
        let mut rows = query.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values = table.columns.iter().enumerate().map(|(at, column)| {
                let value = from_sql(row.get_ref(at).unwrap());
                (column.id, canonical(column.kind, &value).unwrap_or(value))
            });
            let values: BTreeMap<ColumnId, Value> = values.collect();
            let key = table
                .primary_key
                .iter()
                .map(|id| values[id].clone())
                .collect();
            let rest = table
                .registers()
                .map(|column| values[&column.id].clone())
                .collect();
            out.insert((table.id, RowKey(key)), rest);
        }
    }
    out
}

fn rows_of_model(schema: &Schema, model: &BTreeMap<(TableId, RowKey), RowState>) -> Rows {
    let present = model
        .iter()
        .filter(|(_, state)| state.existence().is_present());
    let rows = present.map(|(row, state)| {
        let table = schema.table(row.0).unwrap();
        let value = |column| state.value(column).cloned().unwrap_or(Value::Null);
        (
            row.clone(),
            table.registers().map(|column| value(column.id)).collect(),
        )
    });
    rows.collect()
}

/// The cells that differ, all of a row that is new; of a row that went there are none.
fn difference(
    schema: &Schema,
    before: &Rows,
    after: &Rows,
) -> BTreeSet<(TableId, RowKey, ColumnId)> {
    let registers = |table: &TableId| -> Vec<ColumnId> {
        let table: &Table = schema.table(*table).unwrap();
        table.registers().map(|column| column.id).collect()
    };
    let mut out = BTreeSet::new();
    for ((table, key), values) in after {
        let held = before.get(&(*table, key.clone()));
        for (at, (column, value)) in registers(table).into_iter().zip(values).enumerate() {
            if held.is_none_or(|held| held[at] != *value) {
                out.insert((*table, key.clone(), column));
            }
        }
    }
    out
}
