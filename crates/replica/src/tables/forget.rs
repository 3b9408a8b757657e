//! Letting go of rows that were removed long ago: their clocks and what is kept of their values. When
//! that is allowed is for the caller to say.

use anabranch_crdt::Hlc;
use rusqlite::Connection;

use super::{TableSql, TablesError, names::Names, table::clock_table, unpack_key};

/// What a stretch of a pass over a table's rows has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// How many rows were let go of.
    pub rows: u64,
    /// The packed key to go on after; `None` once the table has been gone through.
    pub after: Option<Vec<u8>>,
}

impl TableSql {
    /// Looks at up to `looked_at_max` rows after the packed key `after` and forgets those that are
    /// removed, if `may_forget` says so of their packed key and the newest reading in them.
    pub fn forget_removed(
        &self,
        conn: &Connection,
        after: &[u8],
        looked_at_max: u32,
        mut may_forget: impl FnMut(&[u8], Hlc) -> Result<bool, TablesError>,
    ) -> Result<Forgotten, TablesError> {
        let sql = format!(
            "SELECT key, clock FROM {} WHERE key > ?1 ORDER BY key LIMIT ?2",
            clock_table(self.id())
        );
        let mut query = conn.prepare_cached(&sql)?;
        let mut rows = query.query((after, looked_at_max))?;
        let mut names = Names::new(conn);
        let mut gone = Vec::new();
        let mut last = None;
        let mut looked_at = 0;
        while let Some(row) = rows.next()? {
            looked_at += 1;
            let packed: Vec<u8> = row.get(0)?;
            let clock = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
            let clock = names.unpack(self.id(), clock)?;
            if !clock.existence.is_present() && may_forget(&packed, clock.newest())? {
                gone.push(unpack_key(&packed)?);
            }
            last = Some(packed);
        }
        drop(rows);
        for key in &gone {
            self.evict(conn, key)?;
        }
        Ok(Forgotten {
            rows: gone.len() as u64,
            after: last.filter(|_| looked_at == looked_at_max),
        })
    }
}
