//! Writing what a merge has decided into the rows of one table. Nothing is decided here.

use anabranch_crdt::{ColumnId, Merged, RowClock, RowKey, RowState, Value};
use rusqlite::{CachedStatement, Connection, params_from_iter};

use super::{
    TablesError,
    rows::run,
    table::{ColumnSql, TableSql},
    values::Bound,
};

/// A cell of a row.
type Cell<'a> = (ColumnId, &'a Value);

/// Writes rows of one table, holding on to the statements that it used last: the rows of a batch
/// mostly write the same columns.
pub(super) struct Writer<'a> {
    table: &'a TableSql,
    conn: &'a Connection,
    insert: Recent<'a>,
    update: Recent<'a>,
    bury: Option<CachedStatement<'a>>,
    delete: Option<CachedStatement<'a>>,
}

/// A statement, and the columns it writes.
type Recent<'a> = Option<(Vec<ColumnId>, CachedStatement<'a>)>;

impl<'a> Writer<'a> {
    pub(super) const fn new(table: &'a TableSql, conn: &'a Connection) -> Self {
        Self {
            table,
            conn,
            insert: None,
            update: None,
            bury: None,
            delete: None,
        }
    }

    /// Writes what an incoming delta, all columns of which the table has, has won.
    pub(super) fn winners(
        &mut self,
        key: &RowKey,
        delta: &RowState,
        merged: &Merged,
        clock: &RowClock,
        known: bool,
    ) -> Result<(), TablesError> {
        let registers = delta.cells().map(|(column, _, value)| (column, value));
        if delta.clock().columns().is_empty() && merged.won.len() == delta.cells().len() {
            return self.cells(key, registers, merged, clock, known);
        }
        let has_won = |(column, _): &Cell<'_>| merged.won.binary_search(column).is_ok();
        let others = delta.clock().columns().iter();
        let others = others.filter_map(|(column, _)| Some((*column, clock.shown(*column)?)));
        let mut won: Vec<Cell<'_>> = registers.chain(others).filter(has_won).collect();
        won.sort_by_key(|(column, _)| *column);
        won.dedup_by_key(|(column, _)| *column);
        self.cells(key, won.iter().copied(), merged, clock, known)
    }

    /// Writes these cells, which come in column order.
    fn cells<'v>(
        &mut self,
        key: &RowKey,
        won: impl Iterator<Item = Cell<'v>> + Clone,
        merged: &Merged,
        clock: &RowClock,
        known: bool,
    ) -> Result<(), TablesError> {
        match (merged.was_present, merged.is_present) {
            (true, true) => self.update(key, won),
            (false, true) if !known => self.insert(key, won),
            (false, true) => self.raise(key, won, clock),
            (true, false) => {
                self.bury(key)?;
                self.update_dead(key, won)
            }
            (false, false) => self.update_dead(key, won),
        }
    }

    fn insert<'v>(
        &mut self,
        key: &RowKey,
        cells: impl Iterator<Item = Cell<'v>> + Clone,
    ) -> Result<(), TablesError> {
        let (table, conn) = (self.table, self.conn);
        write(&mut self.insert, key, cells, |columns| {
            let registers = columns.iter().filter_map(|column| table.register(*column));
            let registers: Vec<&ColumnSql> = registers.collect();
            Ok(conn.prepare_cached(&table.insert(&registers))?)
        })
        .map(drop)
    }

    fn update<'v>(
        &mut self,
        key: &RowKey,
        cells: impl Iterator<Item = Cell<'v>> + Clone,
    ) -> Result<(), TablesError> {
        if cells.clone().next().is_none() {
            return Ok(());
        }
        let (table, conn) = (self.table, self.conn);
        let updated = write(&mut self.update, key, cells.clone(), |columns| {
            let registers = columns.iter().filter_map(|column| table.register(*column));
            let registers: Vec<&ColumnSql> = registers.collect();
            Ok(conn.prepare_cached(&table.update(&registers))?)
        })?;
        // A row that vanished with the triggers off must not stop the merge.
        if updated == 0 {
            self.insert(key, cells)
        } else {
            Ok(())
        }
    }

    /// Takes a row out, and keeps its values.
    fn bury(&mut self, key: &RowKey) -> Result<(), TablesError> {
        let (table, conn) = (self.table, self.conn);
        for (held, sql) in [
            (&mut self.bury, &table.bury),
            (&mut self.delete, &table.delete_row),
        ] {
            let statement = match held {
                Some(statement) => statement,
                None => held.insert(conn.prepare_cached(sql)?),
            };
            statement.execute(params_from_iter(key.0.iter().map(Bound)))?;
        }
        Ok(())
    }

    /// Brings a removed row back: the values it had, and the winners over them.
    fn raise<'v>(
        &mut self,
        key: &RowKey,
        won: impl Iterator<Item = Cell<'v>>,
        clock: &RowClock,
    ) -> Result<(), TablesError> {
        let kept = self
            .table
            .values(self.conn, key, false)?
            .unwrap_or_default();
        let kept = self.table.registers.iter().zip(&kept);
        let kept = kept.filter(|(register, _)| clock.knows(register.id));
        let mut cells: Vec<Cell<'_>> = kept.map(|(held, value)| (held.id, value)).collect();
        for (column, value) in won {
            match cells.binary_search_by_key(&column, |(held, _)| *held) {
                Ok(at) => {
                    if let Some(cell) = cells.get_mut(at) {
                        cell.1 = value;
                    }
                }
                Err(at) => cells.insert(at, (column, value)),
            }
        }
        self.insert(key, cells.iter().copied())?;
        run(self.conn, &self.table.delete_dead, &key.0).map(drop)
    }

    fn update_dead<'v>(
        &self,
        key: &RowKey,
        won: impl Iterator<Item = Cell<'v>>,
    ) -> Result<(), TablesError> {
        let mut won = won.peekable();
        if won.peek().is_none() {
            return Ok(());
        }
        let registers = &self.table.registers;
        let kept = self.table.values(self.conn, key, false)?;
        let mut values = kept.unwrap_or_else(|| vec![Value::Null; registers.len()]);
        for (column, value) in won {
            let at = registers.binary_search_by_key(&column, |register| register.id);
            if let Some(slot) = at.ok().and_then(|at| values.get_mut(at)) {
                *slot = value.clone();
            }
        }
        run(self.conn, &self.table.put_dead, key.0.iter().chain(&values)).map(drop)
    }
}

/// Runs the statement that writes just these cells of a row: the one used last, if it does.
fn write<'c, 'v>(
    recent: &mut Recent<'c>,
    key: &RowKey,
    cells: impl Iterator<Item = Cell<'v>> + Clone,
    prepare: impl FnOnce(&[ColumnId]) -> Result<CachedStatement<'c>, TablesError>,
) -> Result<usize, TablesError> {
    let columns = cells.clone().map(|(column, _)| column);
    let fits = |held: &Recent<'c>| {
        let held = held.as_ref();
        held.is_some_and(|(held, _)| held.iter().copied().eq(columns.clone()))
    };
    let values = key.0.iter().chain(cells.map(|(_, value)| value));
    let values = params_from_iter(values.map(Bound));
    if !fits(recent) {
        let columns: Vec<ColumnId> = columns.collect();
        let statement = prepare(&columns)?;
        *recent = Some((columns, statement));
    }
    match recent {
        Some((_, statement)) => Ok(statement.execute(values)?),
        None => Ok(0),
    }
}
