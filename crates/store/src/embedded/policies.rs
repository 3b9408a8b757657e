//! What becomes of children whose parent is gone: the store decides, and its decision is a write of
//! its own that every replica is told of.
//!
//! A parent's delete takes or releases the children that the store knows by the foreign key's own
//! action. Here are those that come later: written elsewhere by somebody who did not know.

use anabranch_crdt::{Delta, RowKey, RowState, Stamp, Value};
use anabranch_replica::tables::{TableSql, TablesError, key::pack, quote, values::Bound};
use anabranch_shape::schema::{ForeignKey, ReferencePolicy};

use super::{
    core::Work,
    limits::REVIVED_GENERATIONS_MAX,
    writer::{Failure, Written, merge_row},
};

/// Removes or releases the children among `deltas` whose parents are removed. What this writes is
/// captured, and so sealed as the server's.
pub(super) fn enforce(work: &Work<'_>, deltas: &[Delta]) -> Result<(), TablesError> {
    for delta in deltas {
        let Some(table) = work.tables.get(delta.table) else {
            continue;
        };
        for foreign in &table.table.foreign_keys {
            if foreign.policy != ReferencePolicy::Revive
                && removed_parent(work, table, &delta.key, foreign)?.is_some()
            {
                release(work, table, delta, foreign)?;
            }
        }
    }
    Ok(())
}

/// Brings back the removed parents of children that have come into their table or refer to another
/// row than before, and those parents' own, as writes of the server.
///
/// A parent that would itself go with a removed one stays away; the constraint then refuses the child.
pub(super) fn revive(
    work: &mut Work<'_>,
    written: &[Written<'_>],
    stamp: Stamp,
) -> Result<(), Failure> {
    let mut wanted = Vec::new();
    for row in written {
        let before = row.before.as_deref();
        wanted.extend(missed_parents(work, row.delta, before, stamp)?);
    }
    for _ in 0..REVIVED_GENERATIONS_MAX {
        let mut next = Vec::new();
        for parent in std::mem::take(&mut wanted) {
            if stays_away(work, &parent)? {
                continue;
            }
            if merge_row(work, &parent, stamp)?.is_some() {
                enforce(work, std::slice::from_ref(&parent))?;
                next.extend(missed_parents(work, &parent, None, stamp)?);
            }
        }
        if next.is_empty() {
            break;
        }
        wanted = next;
    }
    Ok(())
}

/// What brings back the removed parents that a row refers to, but for those that it referred to before.
fn missed_parents(
    work: &Work<'_>,
    child: &Delta,
    before: Option<&[Value]>,
    stamp: Stamp,
) -> Result<Vec<Delta>, TablesError> {
    let mut missed = Vec::new();
    let Some(table) = work.tables.get(child.table) else {
        return Ok(missed);
    };
    for foreign in &table.table.foreign_keys {
        if foreign.policy != ReferencePolicy::Revive {
            continue;
        }
        let Some(key) = removed_parent(work, table, &child.key, foreign)? else {
            continue;
        };
        let parent = work.tables.get(foreign.parent);
        let referred = parent
            .zip(before)
            .and_then(|(parent, before)| table.reference(&child.key, before, foreign, parent));
        if referred.as_ref() != Some(&key) {
            missed.push(Delta {
                table: foreign.parent,
                key,
                state: RowState::live(stamp),
            });
        }
    }
    Ok(missed)
}

/// Whether a removed row cannot come back: nothing is kept of it, or it would go again at once with a
/// removed parent of its own.
fn stays_away(work: &Work<'_>, row: &Delta) -> Result<bool, TablesError> {
    let Some(table) = work.tables.get(row.table) else {
        return Ok(false);
    };
    let Some(values) = table.values(work.conn, &row.key, false)? else {
        return Ok(true);
    };
    for foreign in &table.table.foreign_keys {
        if foreign.policy == ReferencePolicy::Cascade
            && removed_of(work, table, &row.key, &values, foreign)?.is_some()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The row that a row in its table refers to, if it was and is no more.
fn removed_parent(
    work: &Work<'_>,
    table: &TableSql,
    key: &RowKey,
    foreign: &ForeignKey,
) -> Result<Option<RowKey>, TablesError> {
    let values = table.values(work.conn, key, true)?;
    let removed = values.map(|values| removed_of(work, table, key, &values, foreign));
    Ok(removed.transpose()?.flatten())
}

/// The row that a row with these values refers to, if it was and is no more.
fn removed_of(
    work: &Work<'_>,
    table: &TableSql,
    key: &RowKey,
    values: &[Value],
    foreign: &ForeignKey,
) -> Result<Option<RowKey>, TablesError> {
    let Some(parent) = work.tables.get(foreign.parent) else {
        return Ok(None);
    };
    let Some(referred) = table.reference(key, values, foreign, parent) else {
        return Ok(None);
    };
    let held = parent.held(work.conn, &pack(&referred))?;
    let is_removed = held.is_some_and(|held| !held.clock.existence.is_present());
    Ok(is_removed.then_some(referred))
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
