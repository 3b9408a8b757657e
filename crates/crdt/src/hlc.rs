//! Hybrid logical clocks: 48 bits of Unix milliseconds and 16 bits of counter in one integer.
//!
//! After Kulkarni et al., "Logical Physical Clocks" (2014). The wall clock is never read here: the
//! caller passes it in, and whoever owns an [`HlcClock`] persists [`HlcClock::last`].

use thiserror::Error;

/// Unix time in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

/// A hybrid logical clock reading. It orders as its integer does, and that integer stays below
/// 2^63, so that it sorts the same as an `INTEGER` in SQLite and a `bigint` in Postgres.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hlc(u64);

/// Why a clock reading could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HlcError {
    /// The time does not fit 47 bits of milliseconds (the year 6429), so the clock is wrong.
    #[error("the time {0} ms lies beyond what a clock can hold; set the system clock right")]
    TimeTooLarge(u64),
    /// The integer read from a store is negative, so it was never a clock reading.
    #[error("{0} is not a clock reading: it is negative")]
    Negative(i64),
}

const COUNTER_BITS: u32 = 16;

impl Hlc {
    /// The reading before every other. It stamps rows that nobody has touched since installation.
    pub const ZERO: Self = Self(0);
    /// The last reading there can be.
    pub const MAX: Self = Self(i64::MAX.unsigned_abs());

    /// The reading at `time` with `counter` events before it in the same millisecond.
    pub const fn new(time: Millis, counter: u16) -> Result<Self, HlcError> {
        if time.0 > Self::MAX.0 >> COUNTER_BITS {
            return Err(HlcError::TimeTooLarge(time.0));
        }
        Ok(Self((time.0 << COUNTER_BITS) | counter as u64))
    }

    /// The wall-clock part.
    pub const fn millis(self) -> Millis {
        Millis(self.0 >> COUNTER_BITS)
    }

    /// The logical part.
    pub const fn counter(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    /// The reading as it is stored in SQLite and Postgres.
    pub const fn to_i64(self) -> i64 {
        self.0.cast_signed()
    }

    /// The reading that [`Hlc::to_i64`] stored.
    pub const fn from_i64(stored: i64) -> Result<Self, HlcError> {
        if stored < 0 {
            return Err(HlcError::Negative(stored));
        }
        Ok(Self(stored.unsigned_abs()))
    }

    /// The next reading; a full counter runs over into the next millisecond.
    pub const fn successor(self) -> Result<Self, HlcError> {
        match self.0.checked_add(1) {
            Some(next) if next <= Self::MAX.0 => Ok(Self(next)),
            _ => Err(HlcError::TimeTooLarge(self.millis().0)),
        }
    }
}

/// The clock of one replica: it never repeats a reading and never runs behind one it has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HlcClock {
    last: Hlc,
}

impl HlcClock {
    /// A clock that goes on after `last`, the newest reading its owner has persisted.
    pub const fn resume(last: Hlc) -> Self {
        Self { last }
    }

    /// The newest reading given out or observed.
    pub const fn last(&self) -> Hlc {
        self.last
    }

    /// A new reading for an event that happens at `now`, above every reading before it.
    pub fn tick(&mut self, now: Millis) -> Result<Hlc, HlcError> {
        let wall = Hlc::new(now, 0)?;
        self.last = if wall > self.last {
            wall
        } else {
            self.last.successor()?
        };
        Ok(self.last)
    }

    /// Takes note of another replica's reading, so that later events here are stamped above it.
    /// The bound on readings from the future is enforced once, where the service admits them.
    pub fn observe(&mut self, seen: Hlc) {
        self.last = self.last.max(seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_stands_still_counts_and_a_full_counter_runs_over() {
        let mut clock = HlcClock::resume(Hlc::new(Millis(5), u16::MAX).unwrap());
        let next = clock.tick(Millis(5)).unwrap();
        assert_eq!((next.millis(), next.counter()), (Millis(6), 0));
        let next = clock.tick(Millis(2)).unwrap();
        assert_eq!((next.millis(), next.counter()), (Millis(6), 1));
    }

    #[test]
    fn the_largest_reading_survives_the_store_and_has_no_successor() {
        assert_eq!(Hlc::from_i64(Hlc::MAX.to_i64()), Ok(Hlc::MAX));
        assert!(Hlc::MAX.successor().is_err());
        assert!(Hlc::from_i64(-1).is_err());
        assert!(Hlc::new(Millis(1 << 47), 0).is_err());
        assert!(Hlc::new(Millis((1 << 47) - 1), u16::MAX).is_ok_and(|last| last == Hlc::MAX));
    }
}
