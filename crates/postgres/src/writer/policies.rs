//! What becomes of children whose parent is gone: the store decides, and its decision is a write of
//! its own that every replica is told of.
//!
//! A parent's delete takes or releases the children that the store knows by the foreign key's own
//! action. Here are those that come later: written elsewhere by somebody who did not know.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_crdt::{ColumnId, Hlc, ReplicaId, RowKey, Stamp, TableId, Value};
use anabranch_shape::schema::{DeletePolicy, ForeignKey, ReferencePolicy};
use anabranch_store::StoreError;

use super::batch::{Batch, MergedRow, Mismatch, hlc_now};
use crate::{
    catalog::{Catalog, PgTable, field, table_number},
    errors::{Failure, store_error},
    keys, limits,
    pool::Work,
    rows::{KeyColumns, TextKey},
};

/// A foreign key, and what becomes of its orphans.
struct Policy<'a> {
    child: &'a PgTable,
    parent: &'a PgTable,
    key: &'a ForeignKey,
}

/// Removes or releases the children in the batch whose parents are removed, parents first, until
/// nothing is left to do; or brings the parents back, and theirs.
///
/// A parent that would itself go with a removed one stays away; the constraint then refuses the child.
pub(super) async fn enforce<'a>(
    work: &mut Work<'_>,
    catalog: &'a Catalog,
    batch: &mut Batch<'a>,
    mismatch: Mismatch,
) -> Result<(), Failure> {
    let order = catalog.parents_first();
    let children = order.iter().filter_map(|id| catalog.tables.get(id));
    let policies = children.flat_map(|child| of_table(catalog, child));
    let (reviving, releasing): (Vec<Policy<'_>>, Vec<Policy<'_>>) =
        policies.partition(|policy| policy.key.policy == ReferencePolicy::Revive);
    release_all(work, batch, &releasing).await?;
    // Once each: what goes with a parent of its own does not come back a second time.
    let mut returned = BTreeSet::new();
    for _ in 0..limits::REVIVED_GENERATIONS_MAX {
        let before = returned.len();
        for policy in &reviving {
            revive(work, batch, policy, mismatch, &mut returned).await?;
        }
        if returned.len() == before {
            break;
        }
        release_all(work, batch, &releasing).await?;
    }
    Ok(())
}

fn of_table<'a>(catalog: &'a Catalog, child: &'a PgTable) -> impl Iterator<Item = Policy<'a>> {
    let keys = child.table.foreign_keys.iter();
    keys.filter_map(move |key| {
        let parent = catalog.tables.get(&key.parent)?;
        Some(Policy { child, parent, key })
    })
}

async fn release_all(
    work: &mut Work<'_>,
    batch: &mut Batch<'_>,
    policies: &[Policy<'_>],
) -> Result<(), Failure> {
    let mut changed = true;
    while changed {
        changed = false;
        for policy in policies {
            changed |= release(work, batch, policy).await?;
        }
    }
    Ok(())
}

/// Whether anything was removed or released.
async fn release(
    work: &mut Work<'_>,
    batch: &mut Batch<'_>,
    policy: &Policy<'_>,
) -> Result<bool, Failure> {
    let parents = policy.parents(batch);
    if parents.is_empty() {
        return Ok(false);
    }
    let wanted = parents.values().cloned().collect();
    let gone = gone(work, batch, policy.parent, wanted).await?;
    let now = hlc_now(work).await?;
    let mut changed = false;
    let Some(children) = batch.tables.get_mut(&policy.child.table.id) else {
        return Ok(false);
    };
    for (key, parent) in &parents {
        if let Some(row) = children.rows.get_mut(key).filter(|_| gone.contains(parent)) {
            policy.release(row, now)?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Brings back the removed parents of the children that have come, but for those in `returned`, where
/// they are noted.
async fn revive<'a>(
    work: &mut Work<'_>,
    batch: &mut Batch<'a>,
    policy: &Policy<'a>,
    mismatch: Mismatch,
    returned: &mut BTreeSet<(TableId, TextKey)>,
) -> Result<(), Failure> {
    let parents = policy.parents(batch);
    if parents.is_empty() {
        return Ok(());
    }
    let table = policy.parent;
    let mut gone = gone(work, batch, table, parents.into_values().collect()).await?;
    gone.retain(|key| returned.insert((table.table.id, key.clone())));
    if gone.is_empty() {
        return Ok(());
    }
    batch.gather_more(work, table, &gone, mismatch).await?;
    let now = hlc_now(work).await?;
    let Some(rows) = batch.tables.get_mut(&table.table.id) else {
        return Ok(());
    };
    for (key, row) in &mut rows.rows {
        let is_whole = !row.values.is_empty() || table.table.registers().next().is_none();
        if gone.contains(key) && row.is_removed() && is_whole {
            let stamp = above(row, now)?;
            row.clock.existence.add(stamp);
            row.changed = true;
        }
    }
    Ok(())
}

/// A stamp of the server above everything in a row.
fn above(row: &MergedRow, now: i64) -> Result<Stamp, Failure> {
    let above = row.clock.newest().to_i64().saturating_add(1);
    let hlc = Hlc::from_i64(now.max(above));
    let hlc = hlc.map_err(|error| StoreError::Damaged(error.to_string()))?;
    Ok(Stamp::new(hlc, ReplicaId::SERVER))
}

impl Policy<'_> {
    /// The children in the batch that are there, and the parents that they refer to. To bring a parent
    /// back a child must have come, or refer to another row than before.
    fn parents(&self, batch: &Batch<'_>) -> BTreeMap<TextKey, TextKey> {
        let rows = batch.tables.get(&self.child.table.id);
        let rows = rows.into_iter().flat_map(|table| &table.rows);
        let present = rows.filter(|(_, row)| row.changed && row.is_present());
        let present = present
            .filter(|(_, row)| self.key.policy != ReferencePolicy::Revive || self.refers_anew(row));
        let referring =
            present.filter_map(|(key, row)| Some((key.clone(), self.parent_of(key, row)?)));
        referring.collect()
    }

    fn refers_anew(&self, row: &MergedRow) -> bool {
        let mut columns = self.key.columns.iter();
        !row.was_present || columns.any(|id| row.held.get(id) != row.values.get(id))
    }

    fn parent_of(&self, key: &TextKey, row: &MergedRow) -> Option<TextKey> {
        let child = &self.child.table;
        let own = keys::typed(child, key.parts.iter().map(String::as_str));
        let value = |id: ColumnId| child.key_value(&own, id).or_else(|| row.values.get(&id));
        let parts = self.parent.table.primary_key.iter().map(|part| {
            let columns = self.key.parent_columns.iter();
            let at = columns.clone().position(|column| column == part)?;
            let value = value(*self.key.columns.get(at)?)?;
            (*value != Value::Null).then(|| value.clone())
        });
        let parent = RowKey(parts.collect::<Option<_>>()?);
        TextKey::of(&self.parent.table, &parent)
    }

    fn release(&self, row: &mut MergedRow, now: i64) -> Result<(), Failure> {
        if self.key.policy == ReferencePolicy::Cascade {
            row.clock.existence = row.clock.existence.removal();
            return Ok(());
        }
        let stamp = above(row, now)?;
        for column in &self.key.columns {
            row.clock.set(*column, stamp);
            row.values.insert(*column, Value::Null);
        }
        // As an update does that Postgres makes itself.
        if self.child.table.delete == DeletePolicy::Observed {
            row.clock.existence.add(stamp);
        }
        Ok(())
    }
}

/// Those of `keys` that are rows which were and are no more. The others are held fast, so that they
/// stay until the children are written.
async fn gone(
    work: &mut Work<'_>,
    batch: &Batch<'_>,
    parent: &PgTable,
    keys: BTreeSet<TextKey>,
) -> Result<BTreeSet<TextKey>, Failure> {
    let held = batch.tables.get(&parent.table.id);
    let in_batch = |key: &TextKey| held.and_then(|table| table.rows.get(key));
    let mut gone = BTreeSet::new();
    let mut elsewhere = Vec::new();
    for key in keys {
        match in_batch(&key) {
            Some(row) if row.is_removed() => {
                gone.insert(key);
            }
            Some(_) => {}
            None => elsewhere.push(key),
        }
    }
    if elsewhere.is_empty() {
        return Ok(gone);
    }
    let there = lock_there(work, parent, &elsewhere).await?;
    elsewhere.retain(|key| !there.contains(&key.text));
    let known = known(work, parent.table.id, &elsewhere).await?;
    elsewhere.retain(|key| known.contains(&key.text));
    gone.extend(elsewhere);
    Ok(gone)
}

/// The key texts of those that are in their table.
async fn lock_there(
    work: &mut Work<'_>,
    table: &PgTable,
    keys: &[TextKey],
) -> Result<BTreeSet<String>, Failure> {
    let sql = format!(
        "select u.key from {} join {} r on {} order by u.number for key share of r",
        KeyColumns::unnest(table, 1),
        table.name(),
        table.has_key("r", "u"),
    );
    let columns = KeyColumns::of(table, keys);
    let parameters: Vec<_> = columns.parameters().collect();
    let rows = work.query(&sql, &parameters).await?;
    let keys = rows.iter().map(|row| row.try_get(0));
    keys.collect::<Result<_, _>>()
        .map_err(|error| Failure::Store(store_error(&error)))
}

/// The key texts of those that the store has ever heard of.
async fn known(
    work: &mut Work<'_>,
    table: TableId,
    keys: &[TextKey],
) -> Result<BTreeSet<String>, Failure> {
    const SQL: &str = "select key from anabranch.clocks where table_id = $1 and key = any ($2)";
    let texts: Vec<&str> = keys.iter().map(|key| key.text.as_str()).collect();
    let rows = work.query(SQL, &[&table_number(table)?, &texts]).await?;
    let keys = rows.iter().map(|row| field::<String>(row, "key"));
    Ok(keys.collect::<Result<_, _>>()?)
}
