//! Sealing: what was captured becomes the deltas of one stamped transaction.

use std::collections::BTreeMap;

use anabranch_crdt::{
    ColumnId, Delta, MergeKind, ReplicaId, RowClock, RowKey, RowState, Stamp, TableId, Value,
};
use anabranch_protocol::Inserts;
use anabranch_shape::schema::{DeletePolicy, ForeignKey, ReferencePolicy};
use rusqlite::{Connection, config::DbConfig, params_from_iter};

use super::{
    Held, RowChange, Tables, TablesError,
    capture::{Captured, Net, drain},
    key::pack,
    table::{ColumnSql, TableSql, quote},
    values::{Bound, canonical},
};

/// What sealing made of the captured writes.
#[derive(Clone, Debug, Default)]
pub struct Sealed {
    /// The deltas, at most one a row, ordered by table and packed key. Empty if the writes cancelled
    /// out.
    pub deltas: Vec<Delta>,
    /// Which of them insert their row.
    pub inserts: Inserts,
    /// The packed key of each delta's row.
    pub packed: Vec<Vec<u8>>,
    /// What changed, for the application.
    pub changes: Vec<RowChange>,
}

/// Where the clocks of sealed rows lie.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "it holds a function")]
pub enum Clocks<'a> {
    /// Beside the rows, which sealing brings up to date.
    Written,
    /// Beside the rows only for what is no longer pending: this tells the rest, and the sealed
    /// deltas are to be added to it.
    Pending(&'a (dyn Fn(TableId, &[u8]) -> Option<&'a RowClock> + 'a)),
}

/// Turns whatever was captured into deltas stamped `stamp`, which must lie above every stamp that
/// the file holds.
///
/// A row that is there now tells its written columns, all of them if it is new, and that it is
/// live. A row that is gone tells that every addition seen of it is removed, and what was written
/// before the delete, since the removed row must be the same everywhere should it come back.
/// Writing a child makes its parents live, so that a concurrent delete of the parent loses.
pub fn seal<'a>(
    conn: &'a Connection,
    tables: &'a Tables,
    stamp: Stamp,
    clocks: Clocks<'a>,
) -> Result<Sealed, TablesError> {
    let mut captured = drain(conn, tables)?;
    let mut sealing = Sealing {
        conn,
        tables,
        stamp,
        clocks,
        rows: Vec::new(),
        changes: Vec::new(),
        parents: BTreeMap::new(),
    };
    for run in captured.chunk_by_mut(|one, next| one.table == next.table) {
        sealing.rows(run)?;
    }
    sealing.revive_parents()?;
    Ok(sealing.finish())
}

struct Sealing<'a> {
    conn: &'a Connection,
    tables: &'a Tables,
    stamp: Stamp,
    clocks: Clocks<'a>,
    rows: Vec<SealedRow>,
    changes: Vec<RowChange>,
    /// Parents of rows that were written, by table and packed key.
    parents: BTreeMap<(TableId, Vec<u8>), RowKey>,
}

/// A row that was sealed.
struct SealedRow {
    packed: Vec<u8>,
    delta: Delta,
    inserts: bool,
}

impl Sealing<'_> {
    fn finish(self) -> Sealed {
        let inserts = self.rows.iter().map(|row| row.inserts).collect();
        let rows = self.rows.into_iter().map(|row| (row.delta, row.packed));
        let (deltas, packed) = rows.unzip();
        Sealed {
            deltas,
            inserts,
            packed,
            changes: self.changes,
        }
    }

    /// Seals rows of one table, which come in the order of packed keys.
    fn rows(&mut self, run: &mut [Captured]) -> Result<(), TablesError> {
        let Some(table) = run.first().and_then(|row| self.tables.get(row.table)) else {
            return Ok(());
        };
        let held = table.held_in_order(self.conn, run.iter().map(|row| &row.packed[..]))?;
        let mut writes: Vec<(Vec<u8>, Held)> = Vec::new();
        for (row, held) in run.iter_mut().zip(held) {
            let held = self.with_pending(table.id(), &row.packed, held);
            let Some((state, inserts, held)) = self.row(table, row, held)? else {
                continue;
            };
            if matches!(self.clocks, Clocks::Written) {
                writes.push((row.packed.clone(), held));
            }
            self.rows.push(SealedRow {
                packed: std::mem::take(&mut row.packed),
                delta: Delta {
                    table: table.id(),
                    key: RowKey(std::mem::take(&mut row.key.0)),
                    state,
                },
                inserts,
            });
        }
        let writes = writes.iter().map(|(packed, held)| (&packed[..], held));
        table.put_all_held(self.conn, writes)
    }

    fn with_pending(&self, table: TableId, packed: &[u8], held: Option<Held>) -> Option<Held> {
        let pending = match self.clocks {
            Clocks::Written => None,
            Clocks::Pending(clock_of) => clock_of(table, packed),
        };
        Held::with_pending(held, pending)
    }

    /// Seals a row; its delta, whether that inserts it, and what is held of it then. `None` if
    /// nothing came of it.
    fn row(
        &mut self,
        table: &TableSql,
        row: &Captured,
        held: Option<Held>,
    ) -> Result<Option<(RowState, bool, Held)>, TablesError> {
        let (key, net) = (&row.key, &row.net);
        for spelled in &net.spelled {
            respell(self.conn, table, spelled, key)?;
        }
        let known = held.is_some();
        let mut held = held.unwrap_or_default();
        let was_present = held.clock.existence.is_present();
        let all = net.inserted || !was_present;
        let state = match table.written_values(self.conn, key, true)? {
            Some(_) if was_present && net.is_only_delete() => {
                table.forget_dead(self.conn, key)?;
                None
            }
            Some(values) => {
                if net.deleted || (known && !was_present) {
                    table.forget_dead(self.conn, key)?;
                }
                Some(self.written(table, key, net, all, &held, values)?)
            }
            None if known => self.removed(table, key, net, &held, was_present)?,
            None => {
                table.forget_dead(self.conn, key)?;
                None
            }
        };
        let Some(state) = state.filter(|state| *state != RowState::new()) else {
            return Ok(None);
        };
        held.clock.join(state.clock());
        if self.stamp.replica == ReplicaId::SERVER {
            held.clock.settle();
        }
        let present = held.clock.existence.is_present();
        let columns: Vec<ColumnId> = state.columns().collect();
        self.changes.extend(RowChange::of(
            table.id(),
            key,
            (was_present, present),
            columns,
        ));
        let inserts = all && state.existence().is_present();
        Ok(Some((state, inserts, held)))
    }

    /// The delta of a row that is there.
    fn written(
        &mut self,
        table: &TableSql,
        key: &RowKey,
        net: &Net,
        all: bool,
        held: &Held,
        mut values: Vec<Value>,
    ) -> Result<RowState, TablesError> {
        let tells_presence = all || table.table.delete == DeletePolicy::Observed;
        let mut state = if tells_presence {
            RowState::live(self.stamp)
        } else {
            RowState::new()
        };
        let mut respelled = Vec::new();
        for (at, (register, value)) in table.registers.iter().zip(&mut values).enumerate() {
            if !all && !net.wrote(at) {
                continue;
            }
            if let Some(changed) = canonical(register.kind, value) {
                respelled.push((register, changed.clone()));
                *value = changed;
            }
            let filled_in = *value == Value::Null && register.has_default && !register.nullable;
            if filled_in && !held.clock.knows(register.id) {
                continue;
            }
            if let Some(shown) = self.write(register, value, all, held, &mut state) {
                respelled.push((register, shown.clone()));
                *value = shown;
            }
        }
        if !respelled.is_empty() {
            let cells: Vec<(&ColumnSql, &Value)> = respelled
                .iter()
                .map(|(register, value)| (*register, value))
                .collect();
            without_triggers(self.conn, || table.overwrite(self.conn, key, &cells))?;
        }
        self.note_parents(table, key, &state, &values);
        Ok(state)
    }

    /// Tells of a column that was written; how it is spelled, where it was written otherwise.
    fn write(
        &self,
        register: &ColumnSql,
        value: &Value,
        all: bool,
        held: &Held,
        state: &mut RowState,
    ) -> Option<Value> {
        let column = held.clock.column(register.id);
        let Some(delta) = register.merge.write(column, value, self.stamp) else {
            if register.merge != MergeKind::Register && self.stamp.replica == ReplicaId::SERVER {
                tracing::warn!(
                    column = register.name,
                    "what is no number cannot be counted"
                );
                return Some(column.map_or(Value::Integer(0), |column| column.shown().clone()));
            }
            state.set(register.id, self.stamp, value.clone());
            return None;
        };
        let mut shown = delta.clone();
        if let Some(column) = column {
            shown.merge(column);
        }
        if all || !delta.is_empty() {
            state.set_column(register.id, delta);
        }
        (shown.shown() != value).then(|| shown.shown().clone())
    }

    /// The delta of a known row that is gone; `None` if that is no news.
    fn removed(
        &self,
        table: &TableSql,
        key: &RowKey,
        net: &Net,
        held: &Held,
        was_present: bool,
    ) -> Result<Option<RowState>, TablesError> {
        let mut state = RowState::of_existence(held.clock.existence.removal());
        let mut values = table.values(self.conn, key, false)?.unwrap_or_default();
        let mut respelled = false;
        for (at, (register, value)) in table.registers.iter().zip(&mut values).enumerate() {
            if net.wrote(at)
                && let Some(shown) = self.write(register, value, false, held, &mut state)
            {
                *value = shown;
                respelled = true;
            }
        }
        if respelled {
            table.keep_dead(self.conn, key, &values)?;
        }
        Ok((was_present || state.columns().next().is_some()).then_some(state))
    }

    /// Notes the parents of a child that was inserted or whose reference was written.
    fn note_parents(&mut self, table: &TableSql, key: &RowKey, state: &RowState, values: &[Value]) {
        for foreign in &table.table.foreign_keys {
            let is_written =
                |column: &ColumnId| state.value(*column).is_some() || table.table.is_key(*column);
            if foreign.policy != ReferencePolicy::Revive || !foreign.columns.iter().any(is_written)
            {
                continue;
            }
            let parent = self.tables.get(foreign.parent);
            let parent_key =
                parent.and_then(|parent| table.reference(key, values, foreign, parent));
            if let Some(parent_key) = parent_key {
                self.parents
                    .insert((foreign.parent, pack(&parent_key)), parent_key);
            }
        }
    }

    fn revive_parents(&mut self) -> Result<(), TablesError> {
        let mut parents = std::mem::take(&mut self.parents);
        if parents.is_empty() {
            return Ok(());
        }
        // What was written itself is told as it is.
        for row in &self.rows {
            parents.remove(&(row.delta.table, row.packed.clone()));
        }
        let before = self.rows.len();
        for ((id, packed), key) in parents {
            let Some(table) = self.tables.get(id) else {
                continue;
            };
            let held = table.held(self.conn, &packed)?;
            let held = self.with_pending(id, &packed, held);
            let Some(mut held) = held.filter(|held| held.clock.existence.is_present()) else {
                continue;
            };
            held.clock.existence.add(self.stamp);
            if matches!(self.clocks, Clocks::Written) {
                table.put_held(self.conn, &packed, &held.clock, held.shapes)?;
            }
            self.rows.push(SealedRow {
                packed,
                delta: Delta {
                    table: id,
                    key,
                    state: RowState::live(self.stamp),
                },
                inserts: false,
            });
        }
        if self.rows.len() > before {
            let place = |row: &SealedRow| (row.delta.table, row.packed.clone());
            self.rows.sort_by_cached_key(place);
        }
        Ok(())
    }
}

impl TableSql {
    /// The key of the parent that a row refers to; `None` if it refers to none, or not to a primary
    /// key.
    pub fn reference(
        &self,
        key: &RowKey,
        values: &[Value],
        foreign: &ForeignKey,
        parent: &Self,
    ) -> Option<RowKey> {
        if parent.keys.len() != foreign.parent_columns.len() {
            return None;
        }
        let value_of = |column: ColumnId| {
            self.table.key_value(key, column).or_else(|| {
                let at = self
                    .registers
                    .binary_search_by_key(&column, |held| held.id)
                    .ok()?;
                values.get(at)
            })
        };
        let parts = parent.keys.iter().map(|part| {
            let at = foreign
                .parent_columns
                .iter()
                .position(|column| *column == part.id)?;
            let value = value_of(*foreign.columns.get(at)?)?;
            (*value != Value::Null)
                .then(|| canonical(part.kind, value).unwrap_or_else(|| value.clone()))
        });
        parts.collect::<Option<Vec<Value>>>().map(RowKey)
    }
}

/// Gives a row its canonical key. One that is there under that key already is overwritten: the
/// later write under another spelling was to the same row.
fn respell(
    conn: &Connection,
    table: &TableSql,
    spelled: &RowKey,
    key: &RowKey,
) -> Result<(), TablesError> {
    table.forget_dead(conn, spelled)?;
    let name = quote(&table.table.local_name());
    let sets = table
        .keys
        .iter()
        .zip(1..)
        .map(|(column, at)| format!("{} = ?{at}", column.name));
    let is = table.keys.iter().zip(table.keys.len() + 1..);
    let is = is.map(|(column, at)| format!("{} = ?{at}", column.name));
    let sql = format!(
        "UPDATE OR REPLACE {name} SET {} WHERE {}",
        sets.collect::<Vec<_>>().join(", "),
        is.collect::<Vec<_>>().join(" AND ")
    );
    without_triggers(conn, || {
        let values = key.0.iter().chain(&spelled.0).map(Bound);
        conn.prepare_cached(&sql)?
            .execute(params_from_iter(values))?;
        Ok(())
    })
}

/// Runs `work` with triggers off, so that what it writes is not captured.
fn without_triggers<T>(
    conn: &Connection,
    work: impl FnOnce() -> Result<T, TablesError>,
) -> Result<T, TablesError> {
    let enabled = conn.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER)?;
    if !enabled {
        return work();
    }
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    let result = work();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
    result
}
