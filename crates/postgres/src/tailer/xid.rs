//! Transaction numbers in full: the log tells only their lower half.

use anabranch_store::StoreError;

use crate::{catalog::field, errors::store_error, pool::Lease};

/// A full transaction number near those that the log now tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct XidEpoch {
    near: u64,
}

impl XidEpoch {
    pub(crate) async fn read(lease: &mut Lease) -> Result<Self, StoreError> {
        const SQL: &str = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as next";
        let rows = lease
            .query(SQL, &[])
            .await
            .map_err(|error| store_error(&error))?;
        let next: i64 = rows.first().map_or(Ok(0), |row| field(row, "next"))?;
        Ok(Self {
            near: next.unsigned_abs(),
        })
    }

    /// The number whose lower half is `xid`, taking it to be within 2^31 of the last one.
    pub(crate) fn extend(&mut self, xid: u32) -> u64 {
        const ROUND: u64 = 1 << 32;
        let low = u64::from(xid);
        let candidate = (self.near & !(ROUND - 1)) | low;
        let full = if candidate.saturating_add(ROUND / 2) < self.near {
            candidate.saturating_add(ROUND)
        } else if candidate > self.near.saturating_add(ROUND / 2) && candidate >= ROUND {
            candidate - ROUND
        } else {
            candidate
        };
        self.near = self.near.max(full);
        full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_taken_to_be_the_nearest() {
        let round: u64 = 1 << 32;
        let cases = [
            (700, 690, 690),
            (700, 710, 710),
            (round + 5, u32::MAX - 2, round - 3),
            (round - 3, 4, round + 4),
            (3 * round + 100, 90, 3 * round + 90),
        ];
        for (near, xid, full) in cases {
            assert_eq!(XidEpoch { near }.extend(xid), full, "{xid} near {near}");
        }
    }
}
