//! How often each replicated table has changed, by whatever process: what live queries and other
//! processes look at to see whether anything has.
//!
//! A count lies in `anabranch_meta`. So that a local write need not dirty that page too, the counts
//! that it moves lie beside the newest transaction of the outbox; a table's count is the larger
//! of the two. They are written to `anabranch_meta` when that transaction leaves the outbox.

use std::collections::{BTreeMap, HashMap};

use anabranch_crdt::TableId;
use rusqlite::{Connection, OptionalExtension};

use crate::{
    ReplicaError,
    limits::COUNTS_CARRIED_MAX,
    tables::{TablesError, meta},
};

/// Counts that lie beside the newest transaction of the outbox.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried(BTreeMap<TableId, i64>);

impl Carried {
    /// Those that the file holds.
    fn read(conn: &Connection) -> Result<Self, ReplicaError> {
        // What was captured lies above what was sealed.
        let sql = "SELECT k1 FROM anabranch_capture WHERE op = 0 ORDER BY id DESC LIMIT 1";
        let mut newest = conn.prepare_cached(sql)?;
        let bytes: Option<Option<Vec<u8>>> = newest.query_row([], |row| row.get(0)).optional()?;
        bytes
            .flatten()
            .map_or(Ok(Self::default()), |bytes| Self::from_bytes(&bytes))
    }

    /// Counts a change of a table; the count. `None` if there is no room for it.
    fn count(&mut self, conn: &Connection, table: TableId) -> Result<Option<i64>, ReplicaError> {
        let held = self.0.get(&table).copied();
        if held.is_none() && self.0.len() >= COUNTS_CARRIED_MAX {
            return Ok(None);
        }
        let written = meta::number(conn, &name_of(table))?;
        let count = written.max(held.unwrap_or(0)).saturating_add(1);
        self.0.insert(table, count);
        Ok(Some(count))
    }

    /// A table number and a count each, four and eight bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let count = |(table, count): (&TableId, &i64)| {
            let (table, count) = (table.0.to_be_bytes(), count.to_be_bytes());
            table.into_iter().chain(count)
        };
        self.0.iter().flat_map(count).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, ReplicaError> {
        let (counts, rest) = bytes.as_chunks::<12>();
        if !rest.is_empty() {
            let reason = "the counts of changes are not twelve bytes each".to_owned();
            return Err(TablesError::Damaged(reason).into());
        }
        let count = |[t0, t1, t2, t3, count @ ..]: &[u8; 12]| {
            let table = TableId(u32::from_be_bytes([*t0, *t1, *t2, *t3]));
            (table, i64::from_be_bytes(*count))
        };
        Ok(Self(counts.iter().map(count).collect()))
    }
}

/// Counts a change of these tables by a local transaction that is about to be appended: what is to
/// lie beside it, and the counts. Those that find no room there are left to be counted otherwise.
pub(crate) fn count_local(
    conn: &Connection,
    tables: impl IntoIterator<Item = TableId>,
) -> Result<(Carried, Vec<(TableId, i64)>), ReplicaError> {
    let mut carried = Carried::read(conn)?;
    let mut counted = Vec::new();
    for table in tables {
        if let Some(count) = carried.count(conn, table)? {
            counted.push((table, count));
        }
    }
    Ok((carried, counted))
}

/// Counts a change of a table by anything else; the count.
pub(crate) fn count(conn: &Connection, table: TableId) -> Result<i64, ReplicaError> {
    let count = of(conn, table)?.saturating_add(1);
    meta::write(conn, &name_of(table), count)?;
    Ok(count)
}

/// Writes what lies beside the newest transaction of the outbox to where it stays: that transaction
/// is about to go.
pub(crate) fn settle(conn: &Connection) -> Result<(), ReplicaError> {
    for (table, carried) in Carried::read(conn)?.0 {
        let name = name_of(table);
        if meta::number(conn, &name)? < carried {
            meta::write(conn, &name, carried)?;
        }
    }
    Ok(())
}

/// How often a table has changed.
pub(crate) fn of(conn: &Connection, table: TableId) -> Result<i64, ReplicaError> {
    let written = meta::number(conn, &name_of(table))?;
    let carried = Carried::read(conn)?.0.get(&table).copied();
    Ok(written.max(carried.unwrap_or(0)))
}

/// How often each table has changed that has.
pub(crate) fn all(conn: &Connection) -> Result<HashMap<TableId, i64>, ReplicaError> {
    let mut query = conn.prepare_cached(
        "SELECT name, value FROM anabranch_meta WHERE name >= 'changes_' AND name < 'changes`'",
    )?;
    let mut rows = query.query([])?;
    let mut counts = HashMap::new();
    while let Some(row) = rows.next()? {
        let name = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        let number = name.strip_prefix("changes_").and_then(|id| id.parse().ok());
        if let Some(number) = number {
            counts.insert(TableId(number), row.get(1)?);
        }
    }
    for (table, carried) in Carried::read(conn)?.0 {
        let count = counts.entry(table).or_insert(carried);
        *count = carried.max(*count);
    }
    Ok(counts)
}

/// Counts that local writes were taken back, be it those of a refused transaction or all.
pub(crate) fn count_taken_back(conn: &Connection) -> Result<(), ReplicaError> {
    let count = taken_back(conn)?.saturating_add(1);
    Ok(meta::write(conn, "taken_back", count)?)
}

/// How often local writes were taken back.
pub(crate) fn taken_back(conn: &Connection) -> Result<i64, ReplicaError> {
    Ok(meta::number(conn, "taken_back")?)
}

/// The name of a table's count in `anabranch_meta`.
fn name_of(table: TableId) -> String {
    format!("changes_{}", table.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::layout;

    #[test]
    fn what_finds_no_room_beside_a_transaction_is_counted_otherwise() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(layout::COMMON).unwrap();
        let tables = || (0..20).map(TableId);
        count(&conn, TableId(3)).unwrap();
        let (carried, counted) = count_local(&conn, tables()).unwrap();
        assert_eq!(counted.len(), COUNTS_CARRIED_MAX);
        assert!(counted.contains(&(TableId(3), 2)));
        let sql = "INSERT INTO anabranch_capture(id, op, k1) VALUES (7, 0, ?1)";
        conn.execute(sql, [carried.to_bytes()]).unwrap();
        assert_eq!(Carried::read(&conn).unwrap(), carried);
        // Those that it does carry move on, and others do not take their place.
        let (_, again) = count_local(&conn, tables()).unwrap();
        let moved = counted.iter().map(|(table, count)| (*table, count + 1));
        assert_eq!(again, moved.collect::<Vec<_>>());
        assert_eq!(count(&conn, TableId(19)).unwrap(), 1);
        let before = all(&conn).unwrap();
        settle(&conn).unwrap();
        conn.execute("DELETE FROM anabranch_capture", []).unwrap();
        assert_eq!(all(&conn).unwrap(), before);
        assert_eq!(of(&conn, TableId(3)).unwrap(), 2);
    }
}
