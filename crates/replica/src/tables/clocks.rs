//! The clocks beside the rows of one table, many at a time, in the order of packed keys.

use anabranch_crdt::RowClock;
use anabranch_protocol::SubscriptionSet;
use rusqlite::{CachedStatement, Connection};

use super::{Held, TablesError, names::Names, table::TableSql};

impl TableSql {
    /// What is kept beside the rows with these packed keys, which come in their order.
    ///
    /// One pass over the clocks where the keys lie close together, a search for each where not.
    pub(crate) fn held_in_order<'k>(
        &self,
        conn: &Connection,
        packed: impl ExactSizeIterator<Item = &'k [u8]>,
    ) -> Result<Vec<Option<Held>>, TablesError> {
        self.held_until(conn, packed, |_| false)
    }

    /// The same, of the first of these rows: it may stop after one that is not known.
    pub(super) fn held_until_unknown<'k>(
        &self,
        conn: &Connection,
        packed: impl ExactSizeIterator<Item = &'k [u8]>,
    ) -> Result<Vec<Option<Held>>, TablesError> {
        self.held_until(conn, packed, |found| {
            found.last().is_some_and(Option::is_none)
        })
    }

    fn held_until<'k>(
        &self,
        conn: &Connection,
        packed: impl ExactSizeIterator<Item = &'k [u8]>,
        enough: impl Fn(&[Option<Held>]) -> bool,
    ) -> Result<Vec<Option<Held>>, TablesError> {
        let mut out = Vec::new();
        let mut wanted = packed.peekable();
        let mut query = conn.prepare_cached(&self.scan_clocks)?;
        let mut names = Names::new(conn);
        let mut recent: Option<(Vec<u8>, RowClock)> = None;
        let mut stepping = Stepping::default();
        while let Some(from) = wanted.peek().filter(|_| !enough(&out)) {
            let mut rows = query.query([from])?;
            let steps_max = stepping.steps_max(wanted.len());
            let mut steps = 0;
            while steps < steps_max && wanted.peek().is_some() {
                let Some(row) = rows.next()? else {
                    // Nothing lies beyond, so no other key is known either.
                    out.extend(wanted.by_ref().map(|_| None));
                    break;
                };
                let found = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
                while wanted.next_if(|key| *key < found).is_some() {
                    out.push(None);
                }
                steps += 1;
                while wanted.next_if(|key| *key == found).is_some() {
                    steps = 0;
                    let bytes = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
                    let shapes = SubscriptionSet(row.get::<_, i64>(2)?.cast_unsigned());
                    let clock = match &recent {
                        Some((held, clock)) if held == bytes => clock.clone(),
                        _ => {
                            let clock = names.unpack(self.id(), bytes)?;
                            recent = Some((bytes.to_vec(), clock.clone()));
                            clock
                        }
                    };
                    out.push(Some(Held { clock, shapes }));
                }
            }
        }
        Ok(out)
    }

    /// Writes what is kept beside rows, which come in the order of packed keys. Rows of one
    /// transaction mostly have the same clock, which is encoded once.
    pub(crate) fn put_all_held<'w>(
        &self,
        conn: &Connection,
        writes: impl Iterator<Item = (&'w [u8], &'w Held)>,
    ) -> Result<(), TablesError> {
        let mut statement = conn.prepare_cached(&self.put_clock)?;
        let mut names = Names::new(conn);
        let mut recent: Option<(&RowClock, Vec<u8>)> = None;
        for (packed, held) in writes {
            let bytes = match recent.take() {
                Some((clock, bytes)) if *clock == held.clock => bytes,
                _ => names.pack(&held.clock)?,
            };
            statement.execute((packed, &bytes, held.shapes.0.cast_signed()))?;
            recent = Some((&held.clock, bytes));
        }
        Ok(())
    }
}

/// Writes clocks of rows, encoding equal ones once that come one after another: rows of one
/// transaction mostly have the same.
pub(super) struct ClockWriter<'a> {
    statement: CachedStatement<'a>,
    names: Names<'a>,
    recent: Option<(RowClock, Vec<u8>)>,
}

impl<'a> ClockWriter<'a> {
    /// For rows that are not known yet.
    pub(super) fn of_new_rows(table: &TableSql, conn: &'a Connection) -> Result<Self, TablesError> {
        Ok(Self {
            statement: conn.prepare_cached(&table.add_clock)?,
            names: Names::new(conn),
            recent: None,
        })
    }

    /// Writes a clock; whether it did, or the row is known already.
    pub(super) fn add(
        &mut self,
        packed: &[u8],
        clock: &RowClock,
        shapes: SubscriptionSet,
    ) -> Result<bool, TablesError> {
        let recent = self.recent.take().filter(|(recent, _)| recent == clock);
        let recent = match recent {
            Some(recent) => recent,
            None => (clock.clone(), self.names.pack(clock)?),
        };
        let shapes = shapes.0.cast_signed();
        let added = self.statement.execute((packed, &recent.1, shapes))?;
        self.recent = Some(recent);
        Ok(added > 0)
    }
}

/// Decides how far to step from a key that was searched for, before searching for the next: as far
/// as has been of use lately, and now and then farther, to see whether it would be.
#[derive(Default)]
struct Stepping {
    searches: u32,
    left: Option<usize>,
}

impl Stepping {
    /// To be asked after each search, with the number of keys that are left to be found.
    fn steps_max(&mut self, left: usize) -> u32 {
        let answered = self.left.map_or(0, |before| before.saturating_sub(left));
        self.left = Some(left);
        self.searches = self.searches.wrapping_add(1);
        if answered > 1 || self.searches % 8 == 1 {
            STEPS_MAX
        } else {
            1
        }
    }
}

/// Clocks stepped over before searching is cheaper than stepping.
const STEPS_MAX: u32 = 3;
