//! A row of `anabranch.clocks`: what the service packed, and what SQL writers did since. No IO.

use anabranch_crdt::{ColumnId, Entry, Hlc, Life, ReplicaId, RowClock, Stamp};
use anabranch_shape::schema::Table;
use anabranch_store::StoreError;

/// A row of `anabranch.clocks`; see `schema/postgres.sql` for what the columns mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClockRow {
    pub(crate) clock: Option<Vec<u8>>,
    pub(crate) born_before: bool,
    /// By column number; the first stands for column 1.
    pub(crate) server: Vec<Option<i64>>,
    pub(crate) server_live: Option<i64>,
    pub(crate) server_removed: bool,
    pub(crate) swept: bool,
}

impl ClockRow {
    /// The row's clock: what was packed, with the SQL writers' doings on top as writes of
    /// [`ReplicaId::SERVER`].
    fn fold(&self, table: &Table) -> Result<RowClock, StoreError> {
        let mut clock = match &self.clock {
            Some(bytes) => RowClock::decode(bytes)
                .map_err(|error| StoreError::Damaged(format!("table {}: {error}", table.name)))?,
            None if self.born_before => genesis(table),
            None => RowClock::new(),
        };
        for (number, hlc) in (1_u16..).zip(&self.server) {
            if let Some(hlc) = hlc {
                let stamp = server_stamp(*hlc)?;
                if clock.register(ColumnId(number)) < Some(stamp) {
                    clock.set(ColumnId(number), stamp);
                }
            }
        }
        if self.swept {
            clock.existence = clock.existence.removal();
        }
        if let Some(hlc) = self.server_live {
            let life = if self.server_removed {
                Life::Removed
            } else {
                Life::Live
            };
            clock.existence.join(Entry {
                stamp: server_stamp(hlc)?,
                life,
            });
        }
        Ok(clock)
    }
}

/// The clock of a row that has `row` in `anabranch.clocks`, or nothing there. Columns of a row in
/// the table that were never written, such as those added later, carry the genesis stamp.
pub(crate) fn fold(
    row: Option<&ClockRow>,
    present: bool,
    table: &Table,
) -> Result<RowClock, StoreError> {
    let mut clock = match row {
        Some(row) => row.fold(table)?,
        None if present => genesis(table),
        None => RowClock::new(),
    };
    if present {
        for column in table.registers() {
            if clock.register(column.id).is_none() {
                clock.set(column.id, Stamp::GENESIS);
            }
        }
    }
    Ok(clock)
}

/// Brings a clock that says otherwise in line with whether the row is in its table: somebody wrote
/// past the trigger, and that counts as a server write at `now`.
pub(crate) fn mend(
    clock: &mut RowClock,
    present: bool,
    table: &Table,
    now: i64,
) -> Result<(), StoreError> {
    if present {
        stamp_all(clock, table, now)
    } else {
        clock.existence = clock.existence.removal();
        Ok(())
    }
}

/// Stamps the whole row as written by the server, above everything in it.
pub(crate) fn stamp_all(clock: &mut RowClock, table: &Table, now: i64) -> Result<(), StoreError> {
    let above = clock.newest().to_i64().saturating_add(1);
    let stamp = server_stamp(now.max(above))?;
    for column in table.registers() {
        clock.set(column.id, stamp);
    }
    clock.existence.add(stamp);
    Ok(())
}

fn genesis(table: &Table) -> RowClock {
    RowClock::uniform(table.registers().map(|column| column.id), Stamp::GENESIS)
}

fn server_stamp(hlc: i64) -> Result<Stamp, StoreError> {
    let hlc = Hlc::from_i64(hlc).map_err(|error| StoreError::Damaged(error.to_string()))?;
    Ok(Stamp::new(hlc, ReplicaId::SERVER))
}
