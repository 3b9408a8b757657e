//! Rows with their clocks: reading them, putting them in a state, letting them go. Merging into
//! them is in `merge`.
//!
//! A known row has a clock; its values lie in the user's table while it is present and in the table
//! of removed rows while it is not, so that a row that comes back is whole.

use anabranch_crdt::{ColumnId, RowClock, RowKey, RowState, TableId, Value};
use anabranch_protocol::SubscriptionSet;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::{
    TablesError,
    names::Names,
    table::{ColumnSql, TableSql},
    values::{Bound, canonical, from_sql},
};

/// What is kept beside a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Its clocks.
    pub clock: RowClock,
    /// The shapes it is in.
    pub shapes: SubscriptionSet,
}

/// A change of a row that an application can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChange {
    /// The table.
    pub table: TableId,
    /// The row.
    pub key: RowKey,
    /// The columns written; empty for a removed row.
    pub columns: Vec<ColumnId>,
    /// What became of the row.
    pub kind: ChangeKind,
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It is there and was not.
    Inserted,
    /// It was and is there.
    Updated,
    /// It was there and is no more.
    Removed,
}

impl Held {
    /// What is held of a row that pending writes may have written too, whose clock is `pending`.
    pub(crate) fn with_pending(held: Option<Self>, pending: Option<&RowClock>) -> Option<Self> {
        let Some(pending) = pending else {
            return held;
        };
        let mut held = held.unwrap_or_default();
        held.clock.join(pending);
        Some(held)
    }
}

impl RowChange {
    /// The change that a row's presence before and after and its written columns amount to, if an
    /// application can see any.
    pub fn of(
        table: TableId,
        key: &RowKey,
        presence: (bool, bool),
        columns: Vec<ColumnId>,
    ) -> Option<Self> {
        let kind = ChangeKind::of(presence, &columns)?;
        let columns = match kind {
            ChangeKind::Removed => Vec::new(),
            _ => columns,
        };
        Some(Self {
            table,
            key: key.clone(),
            columns,
            kind,
        })
    }
}

impl ChangeKind {
    /// What a row's presence before and after and its written columns amount to.
    pub(crate) fn of(presence: (bool, bool), columns: &[ColumnId]) -> Option<Self> {
        match presence {
            (false, true) => Some(Self::Inserted),
            (true, false) => Some(Self::Removed),
            (true, true) if !columns.is_empty() => Some(Self::Updated),
            _ => None,
        }
    }
}

impl TableSql {
    /// What is kept beside the row with this packed key; `None` if the row is not known.
    pub fn held(&self, conn: &Connection, packed: &[u8]) -> Result<Option<Held>, TablesError> {
        let mut query = conn.prepare_cached(&self.read_clock)?;
        let mut rows = query.query([packed])?;
        let Some(row) = rows.next()? else {
            return Ok(None);
        };
        let bytes = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
        let clock = Names::new(conn).unpack(self.id(), bytes)?;
        let shapes = SubscriptionSet(row.get::<_, i64>(1)?.cast_unsigned());
        Ok(Some(Held { clock, shapes }))
    }

    /// Writes what is kept beside a row.
    pub fn put_held(
        &self,
        conn: &Connection,
        packed: &[u8],
        clock: &RowClock,
        shapes: SubscriptionSet,
    ) -> Result<(), TablesError> {
        let clock = Names::new(conn).pack(clock)?;
        let mut statement = conn.prepare_cached(&self.put_clock)?;
        statement.execute((packed, clock, shapes.0.cast_signed()))?;
        Ok(())
    }

    /// Writes which shapes a row is in.
    pub fn put_shapes(
        &self,
        conn: &Connection,
        packed: &[u8],
        shapes: SubscriptionSet,
    ) -> Result<(), TablesError> {
        conn.prepare_cached(&self.put_shapes)?
            .execute((packed, shapes.0.cast_signed()))?;
        Ok(())
    }

    /// The registers' values of a row in canonical form, in column order: of the row itself if
    /// `present`, else of what is kept of the removed row. `None` if there is no such row.
    pub fn values(
        &self,
        conn: &Connection,
        key: &RowKey,
        present: bool,
    ) -> Result<Option<Vec<Value>>, TablesError> {
        let mut values = self.written_values(conn, key, present)?;
        for (register, value) in self.registers.iter().zip(values.iter_mut().flatten()) {
            if let Some(changed) = canonical(register.kind, value) {
                *value = changed;
            }
        }
        Ok(values)
    }

    /// The same, as an application wrote them.
    pub(super) fn written_values(
        &self,
        conn: &Connection,
        key: &RowKey,
        present: bool,
    ) -> Result<Option<Vec<Value>>, TablesError> {
        let sql = if present {
            &self.read_row
        } else {
            &self.read_dead
        };
        let mut query = conn.prepare_cached(sql)?;
        let mut rows = query.query(params_from_iter(key.0.iter().map(Bound)))?;
        let Some(row) = rows.next()? else {
            return Ok(None);
        };
        let values = (0..self.registers.len()).map(|at| row.get_ref(at).map(from_sql));
        Ok(Some(values.collect::<Result<_, _>>()?))
    }

    /// The whole state of a row, present or removed; `None` if it is not known.
    pub fn state(&self, conn: &Connection, key: &RowKey) -> Result<Option<RowState>, TablesError> {
        let Some(held) = self.held(conn, &super::key::pack(key))? else {
            return Ok(None);
        };
        self.state_of(conn, key, &held.clock).map(Some)
    }

    /// The whole state of a row whose clock has been read.
    pub fn state_of(
        &self,
        conn: &Connection,
        key: &RowKey,
        clock: &RowClock,
    ) -> Result<RowState, TablesError> {
        let values = self.values(conn, key, clock.existence.is_present())?;
        let mut state = RowState::of_existence(clock.existence.clone());
        let mut values = values.unwrap_or_default().into_iter();
        for register in &self.registers {
            let value = values.next().unwrap_or(Value::Null);
            if let Some(stamp) = clock.register(register.id) {
                state.set(register.id, stamp, value);
            }
            if let Some(column) = clock.column(register.id) {
                state.set_column(register.id, column.clone());
            }
        }
        Ok(state)
    }

    /// Makes a row be in exactly this state, whatever it was in. Not a merge: for taking back what
    /// was refused. A row of which nothing is left to know goes.
    pub fn replace(
        &self,
        conn: &Connection,
        key: &RowKey,
        state: &RowState,
        shapes: SubscriptionSet,
    ) -> Result<(), TablesError> {
        let packed = super::key::pack(key);
        if state.clock() == &RowClock::new() {
            return self.evict(conn, key);
        }
        let null = Value::Null;
        let values = self
            .registers
            .iter()
            .map(|held| state.value(held.id).unwrap_or(&null));
        let row: Vec<&Value> = key.0.iter().chain(values).collect();
        let registers: Vec<&ColumnSql> = self.registers.iter().collect();
        if state.existence().is_present() {
            run(conn, &self.insert(&registers), row)?;
            run(conn, &self.delete_dead, &key.0)?;
        } else {
            run(conn, &self.delete_row, &key.0)?;
            run(conn, &self.put_dead, row)?;
        }
        self.put_held(conn, &packed, state.clock(), shapes)
    }

    /// Forgets a row wholly: its values, its clock and its tombstone. Not a delete: nothing of it
    /// is told to anybody.
    pub fn evict(&self, conn: &Connection, key: &RowKey) -> Result<(), TablesError> {
        run(conn, &self.delete_row, &key.0)?;
        run(conn, &self.delete_dead, &key.0)?;
        conn.prepare_cached(&self.drop_clock)?
            .execute([super::key::pack(key)])?;
        Ok(())
    }

    /// Forgets every row, as [`Self::evict`] does one.
    pub fn clear(&self, conn: &Connection) -> Result<(), TablesError> {
        let name = super::table::quote(&self.table.local_name());
        let clocks = super::table::clock_table(self.id());
        let dead = super::table::dead_table(self.id());
        conn.execute_batch(&format!(
            "DELETE FROM {name}; DELETE FROM {clocks}; DELETE FROM {dead};"
        ))?;
        Ok(())
    }

    /// Keeps these values of a removed row.
    pub(super) fn keep_dead(
        &self,
        conn: &Connection,
        key: &RowKey,
        values: &[Value],
    ) -> Result<(), TablesError> {
        run(conn, &self.put_dead, key.0.iter().chain(values)).map(drop)
    }

    /// Forgets what is kept of a removed row, apart from its clock.
    pub(super) fn forget_dead(&self, conn: &Connection, key: &RowKey) -> Result<(), TablesError> {
        run(conn, &self.delete_dead, &key.0).map(drop)
    }

    /// Overwrites registers of a present row.
    pub(super) fn overwrite(
        &self,
        conn: &Connection,
        key: &RowKey,
        cells: &[(&ColumnSql, &Value)],
    ) -> Result<(), TablesError> {
        let registers: Vec<&ColumnSql> = cells.iter().map(|(register, _)| *register).collect();
        let values = key.0.iter().chain(cells.iter().map(|(_, value)| *value));
        run(conn, &self.update(&registers), values).map(drop)
    }

    /// The keys of all known rows, packed, in their order, with what is kept beside them.
    pub fn each_held(
        &self,
        conn: &Connection,
        mut visit: impl FnMut(Vec<u8>, Held) -> Result<(), TablesError>,
    ) -> Result<(), TablesError> {
        let clocks = super::table::clock_table(self.id());
        let sql = format!("SELECT key, clock, shapes FROM {clocks} ORDER BY key");
        let mut query = conn.prepare_cached(&sql)?;
        let mut rows = query.query([])?;
        let mut names = Names::new(conn);
        while let Some(row) = rows.next()? {
            let bytes = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
            let clock = names.unpack(self.id(), bytes)?;
            let shapes = SubscriptionSet(row.get::<_, i64>(2)?.cast_unsigned());
            visit(row.get(0)?, Held { clock, shapes })?;
        }
        Ok(())
    }

    /// Visits the packed keys that begin with `prefix`, with their packed clocks, in their order.
    pub fn each_clock_under(
        &self,
        conn: &Connection,
        prefix: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), TablesError> {
        let clocks = super::table::clock_table(self.id());
        let sql = format!("SELECT key, clock FROM {clocks} WHERE key >= ?1 ORDER BY key");
        let mut query = conn.prepare_cached(&sql)?;
        let mut rows = query.query([prefix])?;
        while let Some(row) = rows.next()? {
            let blob = |at| Ok::<_, rusqlite::Error>(row.get_ref(at)?.as_blob()?);
            let key = blob(0)?;
            if !key.starts_with(prefix) {
                break;
            }
            visit(key, blob(1)?);
        }
        Ok(())
    }

    /// The packed keys of the rows in any of `shapes`; of those in none if that is empty.
    pub fn keys_in(
        &self,
        conn: &Connection,
        shapes: SubscriptionSet,
    ) -> Result<Vec<Vec<u8>>, TablesError> {
        let clocks = super::table::clock_table(self.id());
        let condition = if shapes.is_empty() {
            "shapes = ?1"
        } else {
            "shapes & ?1 <> 0"
        };
        let sql = format!("SELECT key FROM {clocks} WHERE {condition}");
        let mut query = conn.prepare_cached(&sql)?;
        let keys = query.query_map([shapes.0.cast_signed()], |row| row.get(0))?;
        Ok(keys.collect::<Result<_, _>>()?)
    }
}

/// Reads a packed key that the file holds.
pub fn unpack_key(packed: &[u8]) -> Result<RowKey, TablesError> {
    super::key::unpack(packed)
        .ok_or_else(|| TablesError::Damaged("a row's key cannot be read".to_owned()))
}

pub(super) fn run<'a>(
    conn: &Connection,
    sql: &str,
    values: impl IntoIterator<Item = &'a Value>,
) -> Result<usize, TablesError> {
    let values = values.into_iter().map(Bound);
    Ok(conn
        .prepare_cached(sql)?
        .execute(params_from_iter(values))?)
}

/// One row's answer, if there is one. For counts and flags.
pub fn first<T: rusqlite::types::FromSql>(
    conn: &Connection,
    sql: &str,
) -> Result<Option<T>, TablesError> {
    Ok(conn
        .prepare_cached(sql)?
        .query_row([], |row| row.get(0))
        .optional()?)
}
