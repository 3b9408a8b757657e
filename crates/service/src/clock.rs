//! The real clock and the real randomness of the service: the one place that reads them.

use std::time::{SystemTime, UNIX_EPOCH};

use anabranch_crdt::Millis;

/// The time.
pub(crate) fn now() -> Millis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A number that no run before has drawn.
pub(crate) fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}
