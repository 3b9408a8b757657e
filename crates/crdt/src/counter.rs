//! A counter: a number that everybody adds to, and that ends as the sum of what everybody added.
//!
//! A replica tells what it added, its *increments*; the store settles them into one running *total*
//! a replica, and tells those. Not bare totals from the replicas: what a refused transaction added
//! must vanish though later transactions have been sent already, and a running total would smuggle
//! it in.

use alloc::vec::Vec;

use crate::{Hlc, ReplicaId, Stamp, Value};

/// All that the store has settled of what one replica added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Total {
    /// The replica, and the last of its increments that is in here.
    pub through: Stamp,
    /// What it added up to there.
    pub sum: i64,
}

/// What one transaction added, not yet settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Increment {
    /// The transaction.
    pub stamp: Stamp,
    /// What it added; negative where it took away.
    pub amount: i64,
}

/// The state of a counter.
///
/// ```
/// use anabranch_crdt::{Counter, Hlc, Millis, ReplicaId, Stamp};
///
/// let at = |ms, replica| Hlc::new(Millis(ms), 0).map(|hlc| Stamp::new(hlc, ReplicaId([replica; 16])));
/// let held = Counter::new();
/// let (ann, bob) = (held.write(2, at(1, 1)?), held.write(5, at(1, 2)?));
/// let mut both = ann.clone();
/// both.merge(&bob);
/// assert_eq!(both.value(), 7);
/// # Ok::<(), anabranch_crdt::HlcError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Counter {
    /// At most one a replica, in replica order.
    totals: Vec<Total>,
    /// In stamp order, each above what is settled of its replica.
    increments: Vec<Increment>,
    /// The value, kept as a column holds it.
    shown: Value,
}

impl Default for Counter {
    fn default() -> Self {
        Self::new()
    }
}

impl Counter {
    /// Nobody has added anything.
    pub const fn new() -> Self {
        Self {
            totals: Vec::new(),
            increments: Vec::new(),
            shown: Value::Integer(0),
        }
    }

    /// A counter of these parts, brought into its normal form.
    pub fn of(
        totals: impl IntoIterator<Item = Total>,
        increments: impl IntoIterator<Item = Increment>,
    ) -> Self {
        let mut counter = Self::new();
        for total in totals {
            counter.join_total(total);
        }
        for increment in increments {
            counter.join_increment(increment);
        }
        counter.refresh();
        counter
    }

    /// What the column holds: the sum of all, or the nearest number that fits.
    pub fn value(&self) -> i64 {
        match self.shown {
            Value::Integer(value) => value,
            _ => 0,
        }
    }

    /// The same as a value.
    pub const fn shown(&self) -> &Value {
        &self.shown
    }

    /// What is settled, in replica order.
    pub fn totals(&self) -> &[Total] {
        &self.totals
    }

    /// What is not, in stamp order.
    pub fn increments(&self) -> &[Increment] {
        &self.increments
    }

    /// The delta that says that a transaction stamped `stamp` brought the value to `value`.
    pub fn write(&self, value: i64, stamp: Stamp) -> Self {
        let amount = value.saturating_sub(self.value());
        Self::of([], (amount != 0).then_some(Increment { stamp, amount }))
    }

    /// Joins another counter in; whether that changed anything.
    pub fn merge(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for total in &other.totals {
            changed |= self.join_total(*total);
        }
        for increment in &other.increments {
            changed |= self.join_increment(*increment);
        }
        if changed {
            self.refresh();
        }
        changed
    }

    /// Adds every increment to its replica's total; whether there was any. For the store alone, which
    /// takes each transaction in once and those of one replica in their order.
    pub fn settle(&mut self) -> bool {
        let increments = core::mem::take(&mut self.increments);
        for Increment { stamp, amount } in &increments {
            let held = self.total(stamp.replica).map_or(0, |total| total.sum);
            self.put_total(Total {
                through: *stamp,
                sum: held.saturating_add(*amount),
            });
        }
        !increments.is_empty()
    }

    /// Sets the share of the replica of `through` to what makes the value `value`. For a store in
    /// which other programs simply write the column.
    pub fn imply(&mut self, through: Stamp, value: i64) {
        let held = self.total(through.replica);
        let through = held.map_or(through, |total| total.through.max(through));
        self.put_total(Total { through, sum: 0 });
        self.drop_settled(through);
        let sum = i128::from(value).saturating_sub(self.sum());
        let sum = clamped(sum);
        self.put_total(Total { through, sum });
        self.refresh();
    }

    /// This counter without what the increments of `refused` added.
    pub fn without(&self, refused: &Self) -> Self {
        let increments = &refused.increments;
        self.without_stamps(|stamp| increments.iter().any(|refused| refused.stamp == stamp))
    }

    /// This counter without the increments whose stamps are `gone`.
    pub fn without_stamps(&self, gone: impl Fn(Stamp) -> bool) -> Self {
        let kept = self.increments.iter().filter(|held| !gone(held.stamp));
        Self::of(self.totals.iter().copied(), kept.copied())
    }

    /// The same with other stamps on its increments. Those that get the same stamp become one: their
    /// transactions have.
    pub fn restamped(&self, stamp: impl Fn(Stamp) -> Stamp) -> Self {
        let mut again: Vec<Increment> = Vec::with_capacity(self.increments.len());
        for Increment { stamp: old, amount } in &self.increments {
            let stamp = stamp(*old);
            match again.iter_mut().find(|increment| increment.stamp == stamp) {
                Some(held) => held.amount = held.amount.saturating_add(*amount),
                None => again.push(Increment {
                    stamp,
                    amount: *amount,
                }),
            }
        }
        Self::of(self.totals.iter().copied(), again)
    }

    /// The stamps in it.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> {
        let totals = self.totals.iter().map(|total| total.through);
        totals.chain(self.increments.iter().map(|increment| increment.stamp))
    }

    fn total(&self, replica: ReplicaId) -> Option<Total> {
        let place = self.place(replica).ok()?;
        self.totals.get(place).copied()
    }

    fn place(&self, replica: ReplicaId) -> Result<usize, usize> {
        self.totals
            .binary_search_by_key(&replica, |total| total.through.replica)
    }

    fn put_total(&mut self, total: Total) {
        match self.place(total.through.replica) {
            Ok(place) => {
                if let Some(held) = self.totals.get_mut(place) {
                    *held = total;
                }
            }
            Err(place) => self.totals.insert(place, total),
        }
    }

    /// The later total wins; at an equal reading, which only a broken store makes, the larger.
    fn join_total(&mut self, total: Total) -> bool {
        let held = self.total(total.through.replica);
        let order = |total: &Total| (total.through.hlc, total.sum);
        if held.as_ref().map(order) >= Some(order(&total)) {
            return false;
        }
        self.put_total(total);
        self.drop_settled(total.through);
        true
    }

    /// Forgets the increments that a total through here has in it.
    fn drop_settled(&mut self, through: Stamp) {
        self.increments.retain(|increment| {
            increment.stamp.replica != through.replica || increment.stamp.hlc > through.hlc
        });
    }

    fn join_increment(&mut self, increment: Increment) -> bool {
        let through = self.total(increment.stamp.replica);
        let settled: Option<Hlc> = through.map(|total| total.through.hlc);
        if settled >= Some(increment.stamp.hlc) {
            return false;
        }
        let place = self
            .increments
            .binary_search_by_key(&increment.stamp, |held| held.stamp);
        match place {
            Err(place) => self.increments.insert(place, increment),
            Ok(place) => match self.increments.get_mut(place) {
                Some(held) if held.amount < increment.amount => *held = increment,
                _ => return false,
            },
        }
        true
    }

    fn sum(&self) -> i128 {
        let totals = self.totals.iter().map(|total| total.sum);
        let increments = self.increments.iter().map(|increment| increment.amount);
        totals
            .chain(increments)
            .map(i128::from)
            .fold(0, i128::saturating_add)
    }

    fn refresh(&mut self) {
        self.shown = Value::Integer(clamped(self.sum()));
    }
}

fn clamped(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Millis;

    #[test]
    fn increments_that_get_one_stamp_add_up() {
        let at = |ms| Stamp::new(Hlc::new(Millis(ms), 0).unwrap(), ReplicaId([1; 16]));
        let mut counter = Counter::new();
        for (value, ms) in [(2, 1), (5, 2), (4, 3)] {
            counter.merge(&counter.write(value, at(ms)));
        }
        let squashed = counter.restamped(|stamp| stamp.max(at(2)));
        assert_eq!(squashed.value(), counter.value());
        let amounts = squashed.increments().iter().map(|held| held.amount);
        assert_eq!(amounts.collect::<Vec<_>>(), [5, -1]);
    }
}
