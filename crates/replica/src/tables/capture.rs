//! What the capture triggers recorded, folded to the net effect on each row.

use std::collections::HashMap;

use anabranch_crdt::{RowKey, TableId, Value};
use rusqlite::{Connection, Row, types::ValueRef};

use super::{
    Tables, TablesError,
    table::TableSql,
    triggers::{DELETE, INSERT, MASK_COLUMNS, UPDATE},
    values::{canonical, from_sql},
};

/// What happened to one row since the last seal.
#[derive(Clone, Debug, Default)]
pub(super) struct Net {
    /// It was inserted, perhaps after a delete: every column is new.
    pub(super) inserted: bool,
    /// It was deleted, perhaps before an insert.
    pub(super) deleted: bool,
    /// The masks of changed columns.
    masks: Vec<u64>,
    /// The key as it was written, where the canonical one differs.
    pub(super) spelled: Vec<RowKey>,
}

impl Net {
    /// Whether the register at this index was written.
    pub(super) fn wrote(&self, index: usize) -> bool {
        let mask = self.masks.get(index / MASK_COLUMNS).copied().unwrap_or(0);
        self.inserted || mask & (1 << (index % MASK_COLUMNS)) != 0
    }

    /// Whether nothing but a delete was noted: of a row that is still there, that it might have been
    /// evicted and was not.
    pub(super) const fn is_only_delete(&self) -> bool {
        self.deleted && !self.inserted && self.masks.is_empty()
    }

    fn fold(&mut self, op: i64, masks: Vec<u64>) {
        match op {
            INSERT => self.inserted = true,
            DELETE => self.deleted = true,
            UPDATE => {
                self.masks.resize(self.masks.len().max(masks.len()), 0);
                for (held, mask) in self.masks.iter_mut().zip(masks) {
                    *held |= mask;
                }
            }
            _ => {}
        }
    }
}

/// Whether anything is waiting to be sealed.
pub fn is_waiting(conn: &Connection) -> Result<bool, TablesError> {
    Ok(conn
        .prepare_cached("SELECT 1 FROM anabranch_capture LIMIT 1")?
        .exists([])?)
}

/// Takes out what was captured, folded by row.
pub(super) fn drain(
    conn: &Connection,
    tables: &Tables,
) -> Result<HashMap<(TableId, RowKey), Net>, TablesError> {
    let mut nets: HashMap<(TableId, RowKey), Net> = HashMap::new();
    let mut query = conn.prepare_cached(
        "SELECT tbl, op, changed, k0, k1, k2, k3, k4, k5, k6, k7 \
         FROM anabranch_capture ORDER BY id",
    )?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let number: i64 = row.get(0)?;
        let table = u32::try_from(number)
            .ok()
            .and_then(|id| tables.get(TableId(id)));
        // A table that has left replication since is no longer ours to tell about.
        let Some(table) = table else { continue };
        let (spelled, key) = key(table, row)?;
        if key.0.contains(&Value::Null) {
            // SQLite allows it for historical reasons; such a row is no row to anybody else.
            let table = table.table.local_name();
            tracing::warn!(
                table,
                "a row with a NULL in its primary key is not replicated"
            );
            continue;
        }
        let net = nets.entry((table.id(), key)).or_default();
        net.fold(row.get(1)?, masks(row.get_ref(2)?));
        if let Some(spelled) = spelled
            && !net.spelled.contains(&spelled)
        {
            net.spelled.push(spelled);
        }
    }
    drop(rows);
    conn.execute("DELETE FROM anabranch_capture", [])?;
    Ok(nets)
}

/// The key as it was written, where it is not canonical, and the canonical key.
fn key(table: &TableSql, row: &Row<'_>) -> Result<(Option<RowKey>, RowKey), TablesError> {
    let mut spelled = Vec::with_capacity(table.keys.len());
    let mut differs = false;
    let mut key = Vec::with_capacity(table.keys.len());
    for (column, at) in table.keys.iter().zip(3..) {
        let value = from_sql(row.get_ref(at)?);
        let changed = canonical(column.kind, &value);
        differs |= changed.is_some();
        key.push(changed.unwrap_or_else(|| value.clone()));
        spelled.push(value);
    }
    Ok((differs.then_some(RowKey(spelled)), RowKey(key)))
}

/// The newest write to a table that is captured and not sealed, of those to rows whose packed key
/// `matters`. Where more than `most` wait, the newest of all.
pub fn newest_captured(
    conn: &Connection,
    held: &TableSql,
    most: usize,
    matters: impl Fn(&[u8]) -> bool,
) -> Result<Option<i64>, TablesError> {
    let mut query = conn.prepare_cached(
        "SELECT tbl, op, changed, k0, k1, k2, k3, k4, k5, k6, k7, id \
         FROM anabranch_capture WHERE tbl = ?1 ORDER BY id DESC",
    )?;
    let mut rows = query.query([held.id().0])?;
    let mut newest = None;
    let mut looked_at = 0;
    while let Some(row) = rows.next()? {
        newest = newest.max(row.get(11)?);
        if looked_at == most {
            return Ok(newest);
        }
        looked_at += 1;
        let (_, key) = key(held, row)?;
        if matters(&super::key::pack(&key)) {
            return row.get(11).map_err(TablesError::from);
        }
    }
    Ok(None)
}

fn masks(changed: ValueRef<'_>) -> Vec<u64> {
    match changed {
        ValueRef::Integer(mask) => vec![mask.cast_unsigned()],
        ValueRef::Text(text) => {
            let text = String::from_utf8_lossy(text);
            text.split(' ')
                .map(|mask| mask.parse().unwrap_or(0))
                .collect()
        }
        _ => Vec::new(),
    }
}
