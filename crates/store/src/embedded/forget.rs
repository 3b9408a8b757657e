//! Forgetting rows that were removed long ago: their clocks and what is kept of their values.
//!
//! A removal carries no time of its own, so a pass notes each removed row when it first finds it, and
//! a later pass forgets it once that is long enough ago and nothing has come to the row since.

use anabranch_crdt::{Hlc, TableId};
use anabranch_replica::tables::{TablesError, meta};
use rusqlite::{Connection, OptionalExtension};

use crate::StoreError;

use super::{core::Work, limits::FORGET_STEP_ROWS};

/// The reading before which removed rows may be forgotten, as the file keeps it.
pub(super) const HORIZON: &str = "horizon";

/// A pass over all rows.
pub(super) struct ForgetPass {
    horizon: Hlc,
    /// Which table the pass is at, by its place in the schema.
    table: usize,
    /// The packed key it goes on after there.
    after: Vec<u8>,
    /// How many rows it has forgotten.
    pub(super) forgotten: u64,
}

impl ForgetPass {
    pub(super) const fn new(horizon: Hlc) -> Self {
        Self {
            horizon,
            table: 0,
            after: Vec::new(),
            forgotten: 0,
        }
    }
}

/// Takes one step of a pass; whether there is more to do.
pub(super) fn step(work: &Work<'_>, pass: &mut ForgetPass) -> Result<bool, StoreError> {
    let conn = work.conn;
    // Before anything goes: whoever finds a row missing must find this too.
    if work.horizon < pass.horizon {
        meta::write(conn, HORIZON, pass.horizon.to_i64())?;
    }
    let Some(table) = work.tables.iter().nth(pass.table) else {
        return Ok(false);
    };
    let now = Hlc::new(work.now, 0).unwrap_or(Hlc::ZERO);
    let done = table.forget_removed(conn, &pass.after, FORGET_STEP_ROWS, |key, newest| {
        let removed = Removed {
            table: table.id(),
            key,
            newest,
        };
        let since = removed.found_since(conn, now)?;
        let may_forget = newest < pass.horizon && since < pass.horizon;
        if may_forget {
            removed.drop_note(conn)?;
        }
        Ok(may_forget)
    })?;
    pass.forgotten = pass.forgotten.saturating_add(done.rows);
    match done.after {
        Some(after) => pass.after = after,
        None => {
            pass.table = pass.table.saturating_add(1);
            pass.after.clear();
        }
    }
    Ok(true)
}

/// A row found removed.
struct Removed<'k> {
    table: TableId,
    key: &'k [u8],
    /// The newest reading in it: one that came back and was removed again has a newer one.
    newest: Hlc,
}

impl Removed<'_> {
    /// Since when the row has been found like this; noted now if it was not.
    fn found_since(&self, conn: &Connection, now: Hlc) -> Result<Hlc, TablesError> {
        let sql = "SELECT found FROM anabranch_removed WHERE tbl = ?1 AND key = ?2 AND newest = ?3";
        let noted: Option<i64> = conn
            .prepare_cached(sql)?
            .query_row((self.table.0, self.key, self.newest.to_i64()), |row| {
                row.get(0)
            })
            .optional()?;
        if let Some(noted) = noted {
            return Hlc::from_i64(noted).map_err(|error| TablesError::Damaged(error.to_string()));
        }
        let sql = "REPLACE INTO anabranch_removed(tbl, key, newest, found) VALUES (?1, ?2, ?3, ?4)";
        let note = (self.table.0, self.key, self.newest.to_i64(), now.to_i64());
        conn.prepare_cached(sql)?.execute(note)?;
        Ok(now)
    }

    fn drop_note(&self, conn: &Connection) -> Result<(), TablesError> {
        let sql = "DELETE FROM anabranch_removed WHERE tbl = ?1 AND key = ?2";
        conn.prepare_cached(sql)?
            .execute((self.table.0, self.key))?;
        Ok(())
    }
}
