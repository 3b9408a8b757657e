//! The numbers that every transaction of the engine reads and most change: clock, next number,
//! counts.
//!
//! A local write must dirty as few pages as it can, so what the newest transaction of the outbox
//! tells is not written a second time: reading joins the two, and [`Numbers::write`] is needed only
//! where that would give something else.

use anabranch_crdt::Hlc;
use rusqlite::{Connection, OptionalExtension};

use crate::{
    ReplicaError,
    tables::{TablesError, meta},
};

/// What is stored of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored(Numbers);

/// Where a replica stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// The newest clock reading given out or seen.
    pub(crate) hlc: Hlc,
    /// The newest one that the service has told or accepted.
    pub(crate) shared_hlc: Hlc,
    /// The service's clock minus ours.
    pub(crate) clock_offset_ms: i64,
    /// The number of the next local transaction.
    pub(crate) next_seq: i64,
    /// How many transactions have left the outbox.
    pub(crate) settled: i64,
    /// How often transactions in the outbox were changed.
    pub(crate) rewritten: i64,
}

impl Numbers {
    /// Reads them, as they are and as they are stored.
    pub(crate) fn read(conn: &Connection) -> Result<(Self, Stored), ReplicaError> {
        let stored: Option<Vec<u8>> = meta::read(conn, "numbers")?;
        let stored = stored.map_or(Ok(Self::START), |bytes| Self::from_bytes(&bytes))?;
        Ok((stored.joined(conn)?, Stored(stored)))
    }

    /// Writes them, unless reading would give them already.
    pub(crate) fn write(self, conn: &Connection, stored: Stored) -> Result<(), ReplicaError> {
        if stored.0.joined(conn)? == self {
            return Ok(());
        }
        Ok(meta::write(conn, "numbers", self.to_bytes())?)
    }

    /// With what the newest transaction of the outbox tells.
    fn joined(mut self, conn: &Connection) -> Result<Self, ReplicaError> {
        let sql = "SELECT seq, hlc FROM anabranch_outbox ORDER BY seq DESC LIMIT 1";
        let newest: Option<(i64, i64)> = conn
            .prepare_cached(sql)?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if let Some((seq, hlc)) = newest {
            self.next_seq = self.next_seq.max(seq.saturating_add(1));
            self.hlc = self.hlc.max(Hlc::from_i64(hlc)?);
        }
        Ok(self)
    }

    /// Takes note that transactions in the outbox were changed.
    pub(crate) const fn outbox_rewritten(&mut self) {
        self.rewritten = self.rewritten.saturating_add(1);
    }

    /// How many transactions wait in the outbox.
    pub(crate) const fn waiting(&self) -> u64 {
        let given_out = self.next_seq.saturating_sub(1);
        given_out.saturating_sub(self.settled).unsigned_abs()
    }

    fn to_bytes(self) -> Vec<u8> {
        let numbers = [
            self.hlc.to_i64(),
            self.shared_hlc.to_i64(),
            self.clock_offset_ms,
            self.next_seq,
            self.settled,
            self.rewritten,
        ];
        numbers
            .iter()
            .flat_map(|number| number.to_be_bytes())
            .collect()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, ReplicaError> {
        let (numbers, rest) = bytes.as_chunks::<8>();
        let numbers: Vec<i64> = numbers.iter().copied().map(i64::from_be_bytes).collect();
        match (numbers.as_slice(), rest) {
            (
                [
                    hlc,
                    shared_hlc,
                    clock_offset_ms,
                    next_seq,
                    settled,
                    rewritten,
                ],
                [],
            ) => Ok(Self {
                hlc: Hlc::from_i64(*hlc)?,
                shared_hlc: Hlc::from_i64(*shared_hlc)?,
                clock_offset_ms: *clock_offset_ms,
                next_seq: *next_seq,
                settled: *settled,
                rewritten: *rewritten,
            }),
            _ => Err(TablesError::Damaged("the numbers are not six".to_owned()).into()),
        }
    }

    const START: Self = Self {
        hlc: Hlc::ZERO,
        shared_hlc: Hlc::ZERO,
        clock_offset_ms: 0,
        next_seq: 1,
        settled: 0,
        rewritten: 0,
    };
}
