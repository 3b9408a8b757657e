//! The clocks of one row, apart from its values: what is kept beside a row that lies in SQL.

use alloc::vec::Vec;

use crate::{ColumnId, Existence, Hlc, Stamp};

/// The stamps of a row's registers and its existence: the whole CRDT state of a row but for the
/// values, which the row itself holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RowClock {
    /// The registers' stamps, in column order, at most one a column.
    registers: Vec<(ColumnId, Stamp)>,
    /// Whether the row is in the table.
    pub existence: Existence,
}

impl RowClock {
    /// Nothing is known of the row.
    pub const fn new() -> Self {
        Self {
            registers: Vec::new(),
            existence: Existence::new(),
        }
    }

    /// The clock of a row whose `columns` were all written at `stamp`, which also added it. With
    /// [`Stamp::GENESIS`], the clock of a row that nobody has touched since installation.
    pub fn uniform(columns: impl IntoIterator<Item = ColumnId>, stamp: Stamp) -> Self {
        let mut clock = Self::new();
        for column in columns {
            clock.set(column, stamp);
        }
        clock.existence.add(stamp);
        clock
    }

    /// The registers' stamps, in column order.
    pub fn registers(&self) -> &[(ColumnId, Stamp)] {
        &self.registers
    }

    /// The stamp of a column's register, if it was ever written.
    pub fn register(&self, column: ColumnId) -> Option<Stamp> {
        let position = self.position(column).ok()?;
        self.registers.get(position).map(|(_, stamp)| *stamp)
    }

    /// Sets a register's stamp, whatever it was. Not a merge: for stamping a local write, and for
    /// taking back a refused one.
    pub fn set(&mut self, column: ColumnId, stamp: Stamp) {
        match self.position(column) {
            Ok(position) => {
                if let Some(register) = self.registers.get_mut(position) {
                    register.1 = stamp;
                }
            }
            Err(position) => self.registers.insert(position, (column, stamp)),
        }
    }

    /// Forgets a register. For taking back a refused write of a column never written before.
    pub fn unset(&mut self, column: ColumnId) {
        self.registers.retain(|(held, _)| *held != column);
    }

    /// Where the column's register is, or where it would go.
    pub(crate) fn position(&self, column: ColumnId) -> Result<usize, usize> {
        self.registers
            .binary_search_by_key(&column, |(held, _)| *held)
    }

    /// The newest clock reading in the row: a write stamped above it wins every register.
    pub fn newest(&self) -> Hlc {
        let register = self.registers.iter().map(|(_, stamp)| stamp.hlc).max();
        register.max(self.existence.newest()).unwrap_or(Hlc::ZERO)
    }
}
