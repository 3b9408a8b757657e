//! What becomes of children whose parent is gone: the store decides, and its decision is a write of
//! its own that every replica is told of.
//!
//! A parent's delete takes or releases the children that the store knows by the foreign key's own
//! action. Here are those that come later: written elsewhere by somebody who did not know.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_crdt::{ColumnId, Hlc, ReplicaId, RowKey, Stamp, TableId, Value};
use anabranch_shape::schema::{DeletePolicy, ForeignKey, ReferencePolicy};
use anabranch_store::StoreError;

use super::batch::{Batch, MergedRow, hlc_now};
use crate::{
    catalog::{Catalog, PgTable, field, table_number},
    errors::{Failure, store_error},
    keys,
    pool::Work,
    rows::{KeyColumns, TextKey},
};

/// A foreign key whose children do not keep their parents.
struct Policy<'a> {
    child: &'a PgTable,
    parent: &'a PgTable,
    key: &'a ForeignKey,
}

/// Removes or releases the children in the batch whose parents are removed, parents first, until
/// nothing is left to do.
pub(super) async fn enforce(
    work: &mut Work<'_>,
    catalog: &Catalog,
    batch: &mut Batch<'_>,
) -> Result<(), Failure> {
    let order = catalog.parents_first();
    let children = order.iter().filter_map(|id| catalog.tables.get(id));
    let policies: Vec<Policy<'_>> = children
        .flat_map(|child| of_table(catalog, child))
        .collect();
    loop {
        let mut changed = false;
        for policy in &policies {
            changed |= enforce_one(work, batch, policy).await?;
        }
        if !changed {
            return Ok(());
        }
    }
}

fn of_table<'a>(catalog: &'a Catalog, child: &'a PgTable) -> impl Iterator<Item = Policy<'a>> {
    let keys = child.table.foreign_keys.iter();
    let keys = keys.filter(|key| key.policy != ReferencePolicy::Revive);
    keys.filter_map(move |key| {
        let parent = catalog.tables.get(&key.parent)?;
        Some(Policy { child, parent, key })
    })
}

/// Whether anything was removed or released.
async fn enforce_one(
    work: &mut Work<'_>,
    batch: &mut Batch<'_>,
    policy: &Policy<'_>,
) -> Result<bool, Failure> {
    let parents = policy.parents(batch);
    if parents.is_empty() {
        return Ok(false);
    }
    let wanted: BTreeSet<&TextKey> = parents.values().collect();
    let gone = gone(
        work,
        batch,
        policy.parent,
        wanted.into_iter().cloned().collect(),
    )
    .await?;
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

impl Policy<'_> {
    /// The children in the batch that are there, and the parents that they refer to.
    fn parents(&self, batch: &Batch<'_>) -> BTreeMap<TextKey, TextKey> {
        let rows = batch.tables.get(&self.child.table.id);
        let rows = rows.into_iter().flat_map(|table| &table.rows);
        let present = rows.filter(|(_, row)| row.changed && row.is_present());
        let referring =
            present.filter_map(|(key, row)| Some((key.clone(), self.parent_of(key, row)?)));
        referring.collect()
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
        let above = row.clock.newest().to_i64().saturating_add(1);
        let hlc = Hlc::from_i64(now.max(above));
        let hlc = hlc.map_err(|error| StoreError::Damaged(error.to_string()))?;
        let stamp = Stamp::new(hlc, ReplicaId::SERVER);
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
    keys: Vec<TextKey>,
) -> Result<BTreeSet<TextKey>, Failure> {
    let held = batch.tables.get(&parent.table.id);
    let in_batch = |key: &TextKey| held.and_then(|table| table.rows.get(key));
    let mut gone = BTreeSet::new();
    let mut elsewhere = Vec::new();
    for key in keys {
        match in_batch(&key) {
            Some(row) if !row.clock.existence.is_empty() && !row.is_present() => {
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
