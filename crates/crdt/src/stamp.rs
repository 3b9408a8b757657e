//! Stamps: when and by whom a transaction was made, totally ordered.

use core::fmt;

use crate::Hlc;

/// The identity of a replica: a UUID, chosen at random by whoever makes the replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub [u8; 16]);

impl ReplicaId {
    /// The author of writes made in the store itself by other programs. It sorts above every
    /// replica, so that a server write beats a client write at an equal clock reading.
    pub const SERVER: Self = Self([0xff; 16]);
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// When and by whom: the tag of one transaction's writes. Ordered by clock, then by replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The clock reading of the transaction.
    pub hlc: Hlc,
    /// The replica that made it.
    pub replica: ReplicaId,
}

impl Stamp {
    /// The stamp of rows that nobody has touched since the engine was installed.
    pub const GENESIS: Self = Self {
        hlc: Hlc::ZERO,
        replica: ReplicaId::SERVER,
    };

    /// The stamp of a transaction that `replica` made at `hlc`.
    pub const fn new(hlc: Hlc, replica: ReplicaId) -> Self {
        Self { hlc, replica }
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{}@{}",
            self.hlc.millis().0,
            self.hlc.counter(),
            self.replica
        )
    }
}
