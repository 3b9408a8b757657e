//! Reading the rows of a shape as of one moment, on a connection of its own that nobody waits for.

use std::sync::Arc;

use anabranch_crdt::{Delta, RowKey, RowState, TableId, Value};
use anabranch_protocol::Position;
use anabranch_replica::tables::{
    TableSql, Tables, clock_table, first, is_waiting,
    key::pack,
    quote,
    values::{canonical, from_sql},
};
use anabranch_shape::schema::{Column, ColumnType};
use rusqlite::{Connection, OpenFlags, Row};

use crate::{SnapshotQuery, StoreError, Visibility};

use super::{
    core::EmbeddedCore,
    error::sqlite,
    limits::{SNAPSHOT_CHUNK_BYTES, SNAPSHOT_CHUNK_ROWS, SNAPSHOT_TRIES},
    log,
};

/// A moment of the store, held open.
pub(super) struct Reader {
    conn: Connection,
    tables: Arc<Tables>,
    position: Position,
}

impl Reader {
    /// Holds the present moment open: one at which nothing is waiting to be sealed, so that every
    /// row has its clock.
    pub(super) fn begin(core: &mut EmbeddedCore) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(core.path(), flags).map_err(sqlite)?;
        for _ in 0..SNAPSHOT_TRIES {
            core.seal()?;
            conn.execute_batch("BEGIN").map_err(sqlite)?;
            // The first read fixes the moment.
            if !is_waiting(&conn)? {
                let position = log::last(&conn)?;
                return Ok(Self {
                    tables: core.tables(),
                    conn,
                    position,
                });
            }
            conn.execute_batch("COMMIT").map_err(sqlite)?;
        }
        Err(StoreError::Unavailable(
            "other programs write to the store without a pause; try again".to_owned(),
        ))
    }

    /// Which transactions this moment has seen.
    pub(super) const fn visibility(&self) -> Visibility {
        let next = self.position.0.saturating_add(1);
        Visibility {
            xmin: next,
            xmax: next,
            running: Vec::new(),
            fence: self.position,
        }
    }

    /// About how many rows a query has: the table's, since only reading tells what a filter leaves.
    pub(super) fn rows_estimate(&self, table: TableId) -> Result<u64, StoreError> {
        let sql = format!("SELECT count(*) FROM {}", clock_table(table));
        Ok(first::<i64>(&self.conn, &sql)?.unwrap_or(0).unsigned_abs())
    }

    /// Visits the rows of a query in chunks, until `visit` says to stop.
    pub(super) fn each_chunk(
        &mut self,
        query: &SnapshotQuery,
        mut visit: impl FnMut(Vec<Delta>) -> bool,
    ) -> Result<(), StoreError> {
        let tables = Arc::clone(&self.tables);
        let table = tables.get(query.table).ok_or_else(|| {
            StoreError::Misconfigured(format!("the store has no table numbered {}", query.table.0))
        })?;
        let columns: Vec<&Column> = table
            .table
            .key_columns()
            .chain(table.table.registers())
            .collect();
        let names: Vec<String> = columns.iter().map(|column| quote(&column.name)).collect();
        let name = quote(&table.table.local_name());
        let sql = format!("SELECT {} FROM {name}", names.join(", "));
        let mut statement = self.conn.prepare(&sql).map_err(sqlite)?;
        let mut rows = statement.query([]).map_err(sqlite)?;
        let mut chunk = Vec::new();
        let mut bytes = 0_usize;
        while let Some(row) = rows.next().map_err(sqlite)? {
            let values = read(row, &columns)?;
            let Some(delta) = self.delta(table, query, values)? else {
                continue;
            };
            bytes = bytes.saturating_add(delta.state.size_bytes());
            chunk.push(delta);
            if chunk.len() >= SNAPSHOT_CHUNK_ROWS || bytes >= SNAPSHOT_CHUNK_BYTES {
                bytes = 0;
                if !visit(std::mem::take(&mut chunk)) {
                    return Ok(());
                }
            }
        }
        if !chunk.is_empty() {
            visit(chunk);
        }
        Ok(())
    }

    /// The state of a row, if the query wants it.
    fn delta(
        &self,
        table: &TableSql,
        query: &SnapshotQuery,
        mut values: Vec<Value>,
    ) -> Result<Option<Delta>, StoreError> {
        let registers = values.split_off(table.table.primary_key.len().min(values.len()));
        let key = RowKey(values);
        let ids: Vec<_> = table.table.registers().map(|column| column.id).collect();
        let value_of = |column| {
            let at = ids.binary_search(&column).ok();
            table
                .table
                .key_value(&key, column)
                .or_else(|| registers.get(at?))
        };
        if query
            .filter
            .as_ref()
            .is_some_and(|filter| !filter.matches(&value_of))
        {
            return Ok(None);
        }
        // A row whose key no other store could know has no clock.
        let Some(held) = table.held(&self.conn, &pack(&key))? else {
            return Ok(None);
        };
        let mut state = RowState::of_existence(held.clock.existence.clone());
        for (column, value) in ids.iter().zip(&registers) {
            let stamp = held.clock.register(*column);
            if let Some(stamp) = stamp.filter(|_| query.columns.contains(column)) {
                state.set(*column, stamp, value.clone());
            }
        }
        for (column, other) in held.clock.columns() {
            if query.columns.contains(column) {
                state.set_column(*column, other.clone());
            }
        }
        Ok(Some(Delta {
            table: table.id(),
            key,
            state,
        }))
    }
}

fn read(row: &Row<'_>, columns: &[&Column]) -> Result<Vec<Value>, StoreError> {
    let value = |(at, column): (usize, &&Column)| {
        let value = row.get_ref(at).map(from_sql).map_err(sqlite)?;
        Ok(canonical_value(column.kind, value))
    };
    columns.iter().enumerate().map(value).collect()
}

fn canonical_value(kind: ColumnType, value: Value) -> Value {
    canonical(kind, &value).unwrap_or(value)
}
