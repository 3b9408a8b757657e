//! The task that syncs: connects, moves frames between the connection and the driver, waits.

use std::{sync::Arc, time::Duration};

use anabranch_protocol::{ClientFrame, ServerFrame};
use anabranch_replica::{Event, Replica, ReplicaError};
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior, interval},
};
use tracing::{debug, warn};

use crate::{
    DriveError, Driver, Status,
    connection::Connection,
    shared::{Shared, lock, now, random},
};

/// How often the file is looked at for writes of other programs.
const FOREIGN_WRITES_INTERVAL: Duration = Duration::from_millis(100);

/// The task that syncs.
pub(crate) struct Sync {
    shared: Arc<Shared>,
    url: String,
    tell: watch::Sender<Status>,
}

/// Why a session is over.
enum Over {
    Stopped,
    Disconnected(String),
    Failed(DriveError),
}

impl Sync {
    pub(crate) const fn new(shared: Arc<Shared>, url: String, tell: watch::Sender<Status>) -> Self {
        Self { shared, url, tell }
    }

    pub(crate) async fn run(self) {
        let mut foreign = ticking();
        loop {
            self.tell_status();
            let (due, timeout) = {
                let mut driver = lock(&self.shared.driver);
                (driver.poll_connect(now()), driver.poll_timeout())
            };
            if due {
                let over = tokio::select! {
                    opened = Connection::open(&self.url) => match opened {
                        Ok(connection) => self.session(connection).await,
                        Err(reason) => Over::Disconnected(reason),
                    },
                    () = self.shared.stop.notified() => Over::Stopped,
                };
                let stopped = matches!(over, Over::Stopped);
                self.end(over);
                if stopped {
                    return;
                }
                continue;
            }
            let wait_ms = timeout.map_or(u64::MAX, |until| until.0.saturating_sub(now().0).max(1));
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(wait_ms.min(1_000))) => {}
                () = self.shared.woken.notified() => {}
                _ = foreign.tick() => self.look().await,
                () = self.shared.stop.notified() => return,
            }
        }
    }

    /// Takes note that a session is over, or could not be begun.
    fn end(&self, over: Over) {
        let mut driver = lock(&self.shared.driver);
        let mut disconnected = |reason: String| {
            driver.disconnected(now(), random(), reason.clone());
            reason
        };
        let reason = match over {
            Over::Stopped => disconnected("stopped".to_owned()),
            Over::Disconnected(reason) => disconnected(reason),
            Over::Failed(error) => {
                warn!(%error, "the session cannot go on");
                driver.failed(now(), random(), &error);
                error.to_string()
            }
        };
        debug!(%reason, "the session is over");
        drop(driver);
        lock(&self.shared.replica).tell(Event::Offline { reason });
        self.shared.changed.send_replace(());
        self.tell_status();
    }

    /// Looks for what other programs have written, while there is no session.
    async fn look(&self) {
        let shared = Arc::clone(&self.shared);
        let looked = tokio::task::spawn_blocking(move || {
            look_for_foreign_writes(&mut lock(&shared.replica))
        });
        if let Ok(Err(error)) = looked.await {
            warn!(%error, "the replica's file cannot be looked at");
        }
        self.shared.changed.send_replace(());
    }

    async fn session(&self, mut connection: Connection) -> Over {
        let mut foreign = ticking();
        let mut step = Step::Connected;
        loop {
            // What the service says last is why it then closes the connection.
            let refused = step.refusal();
            let frames = match self.take(step).await {
                Ok(frames) => frames,
                Err(error) => return Over::Failed(error),
            };
            if let Some(reason) = refused {
                return Over::Disconnected(reason);
            }
            self.tell_status();
            for frame in &frames {
                if let Err(reason) = connection.send(frame).await {
                    return Over::Disconnected(reason);
                }
            }
            step = tokio::select! {
                received = connection.receive() => match received {
                    Ok(frame) => Step::Received(Box::new(frame)),
                    Err(reason) => return Over::Disconnected(reason),
                },
                () = self.shared.woken.notified() => Step::Woken,
                _ = foreign.tick() => Step::LookForForeignWrites,
                () = self.shared.stop.notified() => {
                    connection.close().await;
                    return Over::Stopped;
                }
            };
        }
    }

    /// Takes a step on a thread that may wait for the disk; returns what is to be sent.
    async fn take(&self, step: Step) -> Result<Vec<ClientFrame>, DriveError> {
        let shared = Arc::clone(&self.shared);
        let taken = tokio::task::spawn_blocking(move || {
            // The driver is locked first wherever both are.
            let mut driver = lock(&shared.driver);
            let mut replica = lock(&shared.replica);
            step.take(&mut driver, &mut replica)
        });
        let taken = taken.await;
        self.shared.changed.send_replace(());
        match taken {
            Ok(frames) => frames,
            Err(_) => Err(DriveError::Interrupted),
        }
    }

    fn tell_status(&self) {
        let status = self.shared.status();
        self.tell.send_if_modified(|told| {
            let changed = *told != status;
            *told = status;
            changed
        });
    }
}

/// What happened in a session.
enum Step {
    Connected,
    Received(Box<ServerFrame>),
    Woken,
    LookForForeignWrites,
}

impl Step {
    /// Why the service ends the session, if it does.
    fn refusal(&self) -> Option<String> {
        match self {
            Self::Received(frame) => match &**frame {
                ServerFrame::Refused { message, .. } => Some(message.clone()),
                _ => None,
            },
            _ => None,
        }
    }

    fn take(
        self,
        driver: &mut Driver,
        replica: &mut Replica,
    ) -> Result<Vec<ClientFrame>, DriveError> {
        match self {
            Self::Connected => driver.connected(replica)?,
            Self::Received(frame) => driver.receive(replica, *frame)?,
            Self::Woken => driver.subscriptions_changed(),
            Self::LookForForeignWrites => look_for_foreign_writes(replica)?,
        }
        let mut frames = Vec::new();
        while let Some(frame) = driver.poll_frame(replica)? {
            frames.push(frame);
        }
        Ok(frames)
    }
}

/// Ticks at once, and then as often as the file is to be looked at.
fn ticking() -> Interval {
    let mut ticking = interval(FOREIGN_WRITES_INTERVAL);
    ticking.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticking
}

fn look_for_foreign_writes(replica: &mut Replica) -> Result<(), ReplicaError> {
    replica.seal_foreign_writes()?;
    Ok(())
}
