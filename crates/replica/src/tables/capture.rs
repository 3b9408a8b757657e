//! What the capture triggers recorded, folded to the net effect on each row.

use anabranch_crdt::{RowKey, TableId, Value};
use rusqlite::{Connection, OptionalExtension, Row, types::ValueRef};

use super::{
    Tables, TablesError, key,
    table::TableSql,
    triggers::{DELETE, INSERT, MASK_COLUMNS, SEALED, UPDATE},
    values::{canonical, from_sql},
};

/// A row that was written since the last seal.
#[derive(Debug)]
pub(super) struct Captured {
    pub(super) table: TableId,
    /// Its packed key.
    pub(super) packed: Vec<u8>,
    pub(super) key: RowKey,
    /// What happened to it.
    pub(super) net: Net,
}

/// What happened to one row since the last seal.
#[derive(Debug, Default)]
pub(super) struct Net {
    /// It was inserted, perhaps after a delete: every column is new.
    pub(super) inserted: bool,
    /// It was deleted, perhaps before an insert.
    pub(super) deleted: bool,
    /// The mask of changed columns among the first ones, and those of the others.
    mask: u64,
    more_masks: Vec<u64>,
    /// The key as it was written, where the canonical one differs.
    pub(super) spelled: Vec<RowKey>,
}

impl Net {
    /// Whether the register at this index was written.
    pub(super) fn wrote(&self, index: usize) -> bool {
        let mask = match (index / MASK_COLUMNS).checked_sub(1) {
            None => self.mask,
            Some(more) => self.more_masks.get(more).copied().unwrap_or(0),
        };
        self.inserted || mask & (1 << (index % MASK_COLUMNS)) != 0
    }

    /// Whether nothing but a delete was noted: of a row that is still there, that it might have been
    /// evicted and was not.
    pub(super) const fn is_only_delete(&self) -> bool {
        self.deleted && !self.inserted && self.mask == 0 && self.more_masks.is_empty()
    }

    fn of(op: i64, changed: ValueRef<'_>) -> Self {
        let mut net = Self::default();
        match op {
            INSERT => net.inserted = true,
            DELETE => net.deleted = true,
            UPDATE => net.read_masks(changed),
            _ => {}
        }
        net
    }

    fn read_masks(&mut self, changed: ValueRef<'_>) {
        match changed {
            ValueRef::Integer(mask) => self.mask = mask.cast_unsigned(),
            ValueRef::Text(text) => {
                let text = String::from_utf8_lossy(text);
                let mut masks = text.split(' ').map(|mask| mask.parse().unwrap_or(0));
                self.mask = masks.next().unwrap_or(0);
                self.more_masks = masks.collect();
            }
            _ => {}
        }
    }

    /// Adds what happened later.
    fn fold(&mut self, later: Self) {
        self.inserted |= later.inserted;
        self.deleted |= later.deleted;
        self.mask |= later.mask;
        let masks = self.more_masks.len().max(later.more_masks.len());
        self.more_masks.resize(masks, 0);
        for (held, mask) in self.more_masks.iter_mut().zip(later.more_masks) {
            *held |= mask;
        }
        for spelled in later.spelled {
            if !self.spelled.contains(&spelled) {
                self.spelled.push(spelled);
            }
        }
    }
}

/// Whether anything is waiting to be sealed.
pub fn is_waiting(conn: &Connection) -> Result<bool, TablesError> {
    // What was captured lies above what was sealed.
    let sql = "SELECT op FROM anabranch_capture ORDER BY id DESC LIMIT 1";
    let mut query = conn.prepare_cached(sql)?;
    let newest: Option<i64> = query.query_row([], |row| row.get(0)).optional()?;
    Ok(newest.is_some_and(|op| op != SEALED))
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
         FROM anabranch_capture WHERE tbl = ?1 AND id > coalesce( \
         (SELECT id FROM anabranch_capture WHERE op = 0 ORDER BY id DESC LIMIT 1), 0) \
         ORDER BY id DESC",
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
        let (_, row_key) = key(held, row)?;
        if matters(&key::pack(&row_key)) {
            return row.get(11).map_err(TablesError::from);
        }
    }
    Ok(None)
}

/// Takes out what was captured, folded by row, in the order of tables and packed keys.
pub(super) fn drain(conn: &Connection, tables: &Tables) -> Result<Vec<Captured>, TablesError> {
    let sealed = "SELECT id FROM anabranch_capture WHERE op = 0 ORDER BY id DESC LIMIT 1";
    let mut sealed = conn.prepare_cached(sealed)?;
    let sealed: Option<i64> = sealed.query_row([], |row| row.get(0)).optional()?;
    let sealed = sealed.unwrap_or(i64::MIN);
    let mut all = read(conn, tables, sealed)?;
    conn.prepare_cached("DELETE FROM anabranch_capture WHERE id > ?1")?
        .execute([sealed])?;
    // Stable, so that what happened to a row stays in its order.
    all.sort_by(|one, next| (one.table, &one.packed).cmp(&(next.table, &next.packed)));
    all.dedup_by(|later, first| {
        let same = (later.table, &later.packed) == (first.table, &first.packed);
        if same {
            first.net.fold(std::mem::take(&mut later.net));
        }
        same
    });
    Ok(all)
}

/// Everything that was captured above the row `sealed`, in its order.
fn read(conn: &Connection, tables: &Tables, sealed: i64) -> Result<Vec<Captured>, TablesError> {
    let mut all = Vec::new();
    let mut query = conn.prepare_cached(
        "SELECT tbl, op, changed, k0, k1, k2, k3, k4, k5, k6, k7 \
         FROM anabranch_capture WHERE id > ?1 ORDER BY id",
    )?;
    let mut rows = query.query([sealed])?;
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
        let mut net = Net::of(row.get(1)?, row.get_ref(2)?);
        net.spelled.extend(spelled);
        all.push(Captured {
            table: table.id(),
            packed: key::pack(&key),
            key,
            net,
        });
    }
    Ok(all)
}

/// The key as it was written, where it is not canonical, and the canonical key.
fn key(table: &TableSql, row: &Row<'_>) -> Result<(Option<RowKey>, RowKey), TablesError> {
    let mut key = Vec::with_capacity(table.keys.len());
    for (_, at) in table.keys.iter().zip(3..) {
        key.push(from_sql(row.get_ref(at)?));
    }
    let mut spelled = None;
    for (at, column) in table.keys.iter().enumerate() {
        let changed = key.get(at).and_then(|value| canonical(column.kind, value));
        if let Some(changed) = changed {
            spelled.get_or_insert_with(|| RowKey(key.clone()));
            if let Some(value) = key.get_mut(at) {
                *value = changed;
            }
        }
    }
    Ok((spelled, RowKey(key)))
}
