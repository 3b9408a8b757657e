//! What happens in a replica as a stream, for tasks that wait for it.

use anabranch_replica::{Event, Observer};
use futures_util::{Stream, stream};
use tokio::sync::watch;

/// What happens, as it happens, by whatever process; what comes between two calls comes together.
/// See [`Client::changes`](crate::Client::changes).
#[derive(Debug)]
pub struct Changes {
    observer: Observer,
    changed: watch::Receiver<()>,
}

impl Changes {
    pub(crate) const fn new(observer: Observer, changed: watch::Receiver<()>) -> Self {
        Self { observer, changed }
    }

    /// Waits for what happens next; `None` once the client is gone. Nothing is lost where this is
    /// dropped while it waits. Who calls too seldom finds [`Event::Lagged`].
    pub async fn recv(&mut self) -> Option<Vec<Event>> {
        loop {
            let events = self.observer.take();
            if !events.is_empty() {
                return Some(events);
            }
            self.changed.changed().await.ok()?;
        }
    }

    /// The same, as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Vec<Event>> {
        stream::unfold(self, async |mut changes| {
            let events = changes.recv().await?;
            Some((events, changes))
        })
    }
}
