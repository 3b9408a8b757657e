//! What becomes of children whose parent is gone: the store decides, and its decision is a write of
//! its own that every replica is told of.
//!
//! A parent's delete takes or releases the children that the store knows by the foreign key's own
//! action. Here are those that come later: written elsewhere by somebody who did not know.

use anabranch_crdt::{Delta, Value};
use anabranch_replica::tables::{TableSql, TablesError, key::pack, quote, values::Bound};
use anabranch_shape::schema::{ForeignKey, ReferencePolicy};

use super::core::Work;

/// Removes or releases the children among `deltas` whose parents are removed. What this writes is
/// captured, and so sealed as the server's.
pub(super) fn enforce(work: &Work<'_>, deltas: &[Delta]) -> Result<(), TablesError> {
    for delta in deltas {
        let Some(table) = work.tables.get(delta.table) else {
            continue;
        };
        for foreign in &table.table.foreign_keys {
            if foreign.policy != ReferencePolicy::Revive && is_orphan(work, table, delta, foreign)?
            {
                release(work, table, delta, foreign)?;
            }
        }
    }
    Ok(())
}

/// Whether the row is there, and refers to one that was and is no more.
fn is_orphan(
    work: &Work<'_>,
    table: &TableSql,
    delta: &Delta,
    foreign: &ForeignKey,
) -> Result<bool, TablesError> {
    let Some(parent) = work.tables.get(foreign.parent) else {
        return Ok(false);
    };
    let Some(values) = table.values(work.conn, &delta.key, true)? else {
        return Ok(false);
    };
    let Some(key) = table.reference(&delta.key, &values, foreign, parent) else {
        return Ok(false);
    };
    let held = parent.held(work.conn, &pack(&key))?;
    Ok(held.is_some_and(|held| !held.clock.existence.is_present()))
}

fn release(
    work: &Work<'_>,
    table: &TableSql,
    delta: &Delta,
    foreign: &ForeignKey,
) -> Result<(), TablesError> {
    let name = quote(&table.table.local_name());
    let columns = table.table.key_columns().zip(1..);
    let is: Vec<String> = columns
        .map(|(column, at)| format!("{} = ?{at}", quote(&column.name)))
        .collect();
    let is = is.join(" AND ");
    let sql = if foreign.policy == ReferencePolicy::Cascade {
        format!("DELETE FROM {name} WHERE {is}")
    } else {
        let columns = foreign.columns.iter();
        let columns = columns.filter_map(|id| table.table.column(*id));
        let sets: Vec<String> = columns
            .map(|column| format!("{} = NULL", quote(&column.name)))
            .collect();
        format!("UPDATE {name} SET {} WHERE {is}", sets.join(", "))
    };
    let key: &[Value] = &delta.key.0;
    let params = rusqlite::params_from_iter(key.iter().map(Bound));
    work.conn.prepare_cached(&sql)?.execute(params)?;
    Ok(())
}
