//! The merge: the one place where two versions of a row become one.
//!
//! It works on clocks and asks for a value only where two stamps are equal, so that a delta that
//! loses costs neither an allocation nor a read of the row. Replica and service both call it.

use alloc::vec::Vec;
use core::cmp::Ordering;

use crate::{ColumnId, RowClock, RowState, Stamp, Value};

/// What a merge did. The clock has been brought up to date; writing the values is the caller's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Merged {
    /// The incoming columns whose values must now be written, in column order: of a register the
    /// incoming value, of a counter or set what the clock [shows](RowClock::shown).
    pub won: Vec<ColumnId>,
    /// Whether the row was in the table before.
    pub was_present: bool,
    /// Whether it is now.
    pub is_present: bool,
    /// Whether the row state changed at all, in what is read or only in its clock.
    pub changed: bool,
}

/// Joins `incoming` into the row whose clock is `clock`.
///
/// `compare_held` tells how the value held in a column compares with the incoming one; it is called
/// only where both carry the same stamp, which a second delivery does and, if it differs, a
/// replica that broke the rules. The larger value then wins, so that even this ends the same
/// everywhere.
///
/// ```
/// # use anabranch_crdt::{merge, ColumnId, Hlc, Millis, ReplicaId, RowClock, RowState, Stamp, Value};
/// let stamp = Stamp::new(Hlc::new(Millis(7), 0)?, ReplicaId([1; 16]));
/// let mut delta = RowState::live(stamp);
/// delta.set(ColumnId(2), stamp, Value::Integer(42));
///
/// let mut clock = RowClock::new();
/// let merged = merge(&mut clock, &delta, |_, _| unreachable!("no stamp is equal"));
/// assert_eq!(merged.won, [ColumnId(2)]);
/// assert!(merged.is_present && !merged.was_present);
/// # Ok::<(), anabranch_crdt::HlcError>(())
/// ```
pub fn merge(
    clock: &mut RowClock,
    incoming: &RowState,
    compare_held: impl FnMut(ColumnId, &Value) -> Ordering,
) -> Merged {
    join(
        &mut ClockOnly {
            clock,
            compare_held,
        },
        incoming,
    )
}

/// What [`merge`] does to a row of which nothing is known, whose clock `incoming`'s is then.
///
/// ```
/// # use anabranch_crdt::{merge, merge_first, Hlc, Millis, ReplicaId, RowClock, RowState, Stamp};
/// let delta = RowState::live(Stamp::new(Hlc::new(Millis(7), 0)?, ReplicaId([1; 16])));
/// let mut clock = RowClock::new();
/// assert_eq!(merge_first(&delta), merge(&mut clock, &delta, |_, _| unreachable!()));
/// assert_eq!(clock, *delta.clock());
/// # Ok::<(), anabranch_crdt::HlcError>(())
/// ```
pub fn merge_first(incoming: &RowState) -> Merged {
    let clock = incoming.clock();
    let registers = clock.registers().iter().map(|(column, _)| *column);
    let mut won: Vec<ColumnId> = Vec::with_capacity(registers.len());
    won.extend(registers);
    if !clock.columns().is_empty() {
        won.extend(clock.columns().iter().map(|(column, _)| *column));
        won.sort_unstable();
        won.dedup();
    }
    Merged {
        changed: !won.is_empty() || !incoming.existence().entries().is_empty(),
        won,
        was_present: false,
        is_present: incoming.existence().is_present(),
    }
}

/// A row that can be merged into, wherever its values lie.
pub(crate) trait Row {
    /// The clocks.
    fn clock(&mut self) -> &mut RowClock;
    /// How the value held compares with the incoming one.
    fn compare_held(&mut self, column: ColumnId, incoming: &Value) -> Ordering;
    /// Takes the incoming register over.
    fn take(&mut self, column: ColumnId, stamp: Stamp, incoming: &Value);
}

/// The merge itself; see [`merge`].
pub(crate) fn join(row: &mut impl Row, incoming: &RowState) -> Merged {
    let was_present = row.clock().existence.is_present();
    let mut won = Vec::new();
    for (column, stamp, value) in incoming.cells() {
        let held = row.clock().register(column);
        let wins = match held.cmp(&Some(stamp)) {
            Ordering::Less => true,
            Ordering::Equal => row.compare_held(column, value).is_lt(),
            Ordering::Greater => false,
        };
        if wins {
            row.take(column, stamp, value);
            won.push(column);
        }
    }
    let columns_changed = join_columns(row.clock(), incoming.clock(), &mut won);
    let existence_changed = row.clock().existence.merge(incoming.existence());
    Merged {
        changed: existence_changed || columns_changed || !won.is_empty(),
        won,
        was_present,
        is_present: row.clock().existence.is_present(),
    }
}

/// Joins the columns that are no registers, and adds to `won` those that now show something else;
/// whether anything changed.
fn join_columns(held: &mut RowClock, incoming: &RowClock, won: &mut Vec<ColumnId>) -> bool {
    let mut changed = false;
    for (column, state) in incoming.columns() {
        let before = held.shown(*column).cloned();
        changed |= held.join_column(*column, state);
        if before.as_ref() != held.shown(*column) {
            won.push(*column);
        }
    }
    if !incoming.columns().is_empty() {
        won.sort_unstable();
        won.dedup();
    }
    changed
}

/// A row whose values lie elsewhere.
struct ClockOnly<'a, F> {
    clock: &'a mut RowClock,
    compare_held: F,
}

impl<F: FnMut(ColumnId, &Value) -> Ordering> Row for ClockOnly<'_, F> {
    fn clock(&mut self) -> &mut RowClock {
        self.clock
    }

    fn compare_held(&mut self, column: ColumnId, incoming: &Value) -> Ordering {
        (self.compare_held)(column, incoming)
    }

    fn take(&mut self, column: ColumnId, stamp: Stamp, _: &Value) {
        self.clock.set(column, stamp);
    }
}
