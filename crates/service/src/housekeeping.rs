//! Housekeeping: forgetting rows that were removed longer ago than the service remembers. When the
//! store is unreachable it is tried again with the next round; nothing waits for it.

use std::{sync::Arc, time::Duration};

use anabranch_crdt::{Hlc, Millis};
use anabranch_store::Store;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::{
    clock,
    limits::{HOUSEKEEPING_DELAY_MS, HOUSEKEEPING_PERIOD_MS},
};

/// Goes round until it is aborted.
pub(crate) fn start(store: Arc<dyn Store>, retention: Duration) -> JoinHandle<()> {
    tokio::spawn(async move {
        // A service that has just started has replicas to greet.
        tokio::time::sleep(Duration::from_millis(HOUSEKEEPING_DELAY_MS)).await;
        loop {
            let horizon = horizon(clock::now(), retention);
            match store.forget_removed(horizon).await {
                Ok(0) => {}
                Ok(rows) => info!(rows, "forgot rows that were deleted long ago"),
                Err(error) => warn!(%error, "rows deleted long ago could not be forgotten"),
            }
            tokio::time::sleep(Duration::from_millis(HOUSEKEEPING_PERIOD_MS)).await;
        }
    })
}

/// What was removed before this reading is forgotten.
fn horizon(now: Millis, retention: Duration) -> Hlc {
    let retention_ms = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
    Hlc::new(Millis(now.0.saturating_sub(retention_ms)), 0).unwrap_or(Hlc::ZERO)
}

#[cfg(test)]
mod tests {
    use anabranch_crdt::ReplicaId;
    use anabranch_protocol::Seq;
    use anabranch_store::embedded::EmbeddedStore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_store_is_told_what_to_forget_as_time_goes_by() {
        let folder = tempfile::tempdir().unwrap();
        let schema = Some("CREATE TABLE note (id INTEGER PRIMARY KEY, title TEXT)");
        let store = EmbeddedStore::open(&folder.path().join("store.db"), schema).unwrap();
        let horizon = || async {
            let standing = store.greet(ReplicaId([1; 16]), Seq(1)).await;
            standing.unwrap().horizon
        };
        let retention = Duration::from_secs(3600);
        let task = start(Arc::new(store.clone()), retention);
        assert_eq!(horizon().await, Hlc::ZERO, "not at once");
        let before = clock::now();
        while horizon().await == Hlc::ZERO {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let earliest = before.0 - 3_600_000;
        assert!(horizon().await.millis().0 >= earliest);
        assert!(horizon().await.millis() <= clock::now());
        task.abort();
    }

    #[test]
    fn the_horizon_lies_the_retention_back_and_never_before_the_beginning() {
        let at = |ms| Hlc::new(Millis(ms), 0).unwrap();
        assert_eq!(horizon(Millis(5_000), Duration::from_secs(2)), at(3_000));
        assert_eq!(horizon(Millis(5_000), Duration::MAX), Hlc::ZERO);
    }
}
