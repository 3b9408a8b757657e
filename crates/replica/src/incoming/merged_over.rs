//! Telling an application that what somebody wrote here gave way to somebody else's newer write.

use anabranch_crdt::{ColumnId, RowKey, RowState, Stamp, Value};

use crate::{Event, ReplicaError, tables::TableSql, turn::Turn};

/// A local value and the newer one that was written elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedOver {
    /// The column.
    pub column: ColumnId,
    /// What was written here, and when.
    pub local: (Value, Stamp),
    /// What has superseded it, and when that was written.
    pub remote: (Value, Stamp),
}

impl Turn<'_> {
    /// Notes which values that were written here are about to give way to `incoming`. Called for
    /// rows with local writes pending only: others have nobody waiting for what they wrote.
    pub(crate) fn note_merged_over(
        &mut self,
        table: &TableSql,
        key: &RowKey,
        packed: &[u8],
        incoming: &RowState,
    ) -> Result<(), ReplicaError> {
        let Some(held) = self.held(table, packed)? else {
            return Ok(());
        };
        let ours = |column, stamp| {
            let held = held.clock.register(column);
            held.filter(|held| held.replica == self.replica && *held < stamp)
        };
        let mut cells = incoming.cells();
        if !cells.any(|(column, stamp, _)| ours(column, stamp).is_some()) {
            return Ok(());
        }
        let state = table.state_of(self.tx, key, &held.clock)?;
        let lost = |(column, stamp, value): (ColumnId, Stamp, &Value)| {
            let local = (state.value(column)?.clone(), ours(column, stamp)?);
            (local.0 != *value).then(|| MergedOver {
                column,
                local,
                remote: (value.clone(), stamp),
            })
        };
        let values: Vec<MergedOver> = incoming.cells().filter_map(lost).collect();
        if !values.is_empty() {
            self.events.push(Event::MergedOver {
                table: table.id(),
                key: key.clone(),
                values,
            });
        }
        Ok(())
    }
}
