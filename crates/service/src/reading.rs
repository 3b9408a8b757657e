//! The tasks that read snapshots: each reads a chunk when told to, so that a slow replica holds up
//! the reading and not the memory.

use std::{sync::Arc, time::Duration};

use anabranch_store::{SnapshotQuery, Store};
use tokio::sync::mpsc;
use tracing::warn;

use crate::engine::{Event, Reading};

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Starts reading; each message on the returned channel asks for one chunk, and dropping it ends the
/// reading.
pub(crate) fn start(
    store: Arc<dyn Store>,
    query: SnapshotQuery,
    reading: Reading,
    events: mpsc::Sender<Event>,
) -> mpsc::UnboundedSender<()> {
    let (more, wanted) = mpsc::unbounded_channel();
    tokio::spawn(read(store, query, reading, events, wanted));
    more
}

async fn read(
    store: Arc<dyn Store>,
    query: SnapshotQuery,
    reading: Reading,
    events: mpsc::Sender<Event>,
    mut wanted: mpsc::UnboundedReceiver<()>,
) {
    let mut wait = RETRY_MIN;
    let mut snapshot = loop {
        match store.snapshot(query.clone()).await {
            Ok(snapshot) => break snapshot,
            Err(error) => warn!(%error, "cannot take a snapshot yet; trying again"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
        if wanted.is_closed() {
            return;
        }
    };
    let started = Event::SnapshotStarted {
        reading,
        visibility: snapshot.visibility.clone(),
        rows_estimate: snapshot.rows_estimate,
    };
    let _ = events.send(started).await;
    while wanted.recv().await.is_some() {
        let event = match snapshot.chunks.recv().await {
            Some(Ok(rows)) => Event::SnapshotRows { reading, rows },
            Some(Err(error)) => {
                warn!(%error, "a snapshot broke off; reading it again");
                tokio::time::sleep(RETRY_MIN).await;
                Event::SnapshotFailed(reading)
            }
            None => Event::SnapshotEnded(reading),
        };
        let over = !matches!(event, Event::SnapshotRows { .. });
        let _ = events.send(event).await;
        if over {
            return;
        }
    }
}
