//! What a new schema asks of the rows of a table: columns that the file did not have, and columns
//! whose type has changed.

use anabranch_crdt::{ColumnId, MergeKind, RowState};
use anabranch_shape::schema::Table;
use rusqlite::Connection;

use super::{TableSql, TablesError};

impl TableSql {
    /// The cells of columns that this file does not have; `None` if there are none.
    pub fn unknown_cells(&self, delta: &RowState) -> Option<RowState> {
        let is_known = |column| self.register(column).is_some();
        if delta.columns().all(is_known) {
            return None;
        }
        Some(cells_of(delta, |column| !is_known(column)))
    }

    /// The columns outside the key that had another type in `held`.
    pub fn retyped(&self, held: &Table) -> Vec<ColumnId> {
        let registers = self.table.registers();
        let retyped = registers.filter(|column| {
            let before = held.column(column.id);
            let before = before.filter(|_| column.merge == MergeKind::Register);
            before.is_some_and(|before| {
                before.kind != column.kind || before.declared_type != column.declared_type
            })
        });
        retyped.map(|column| column.id).collect()
    }

    /// Forgets who wrote `columns` in every row: the store has rewritten them and says nothing of
    /// when, so that what it tells next must win.
    pub fn forget_registers(
        &self,
        conn: &Connection,
        columns: &[ColumnId],
    ) -> Result<(), TablesError> {
        let mut rows = Vec::new();
        self.each_held(conn, |packed, mut held| {
            if columns
                .iter()
                .any(|column| held.clock.register(*column).is_some())
            {
                columns.iter().for_each(|column| held.clock.unset(*column));
                rows.push((packed, held));
            }
            Ok(())
        })?;
        rows.iter()
            .try_for_each(|(packed, held)| self.put_held(conn, packed, &held.clock, held.shapes))
    }
}

/// The cells in the columns that `keep` wants, without existence.
fn cells_of(delta: &RowState, mut keep: impl FnMut(ColumnId) -> bool) -> RowState {
    let mut cells = RowState::new();
    for (column, stamp, value) in delta.cells().filter(|(column, ..)| keep(*column)) {
        cells.set(column, stamp, value.clone());
    }
    for (column, other) in delta.clock().columns() {
        if keep(*column) {
            cells.set_column(*column, other.clone());
        }
    }
    cells
}
