//! The edge around the hub: one task that owns it, and the tasks that merge, read snapshots and
//! follow the store's log for it. Connections talk to it through [`Engine`]'s handle.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use anabranch_crdt::{Delta, Millis};
use anabranch_protocol::{ClientFrame, Epoch, Position, RefusalCode, Seq, ServerFrame};
use anabranch_store::{LogEvent, MergeOutcome, Standing, Store, Visibility};
use tokio::sync::mpsc::{self, error::TrySendError};
use tracing::{info, warn};

use crate::{
    clock,
    hub::{Action, Hub, HubConfig, SessionId, Ticket},
    limits::HUB_QUEUE_EVENTS,
    merging::{self, MergeRequest},
    reading,
};

/// What happens to the hub.
#[derive(Debug)]
pub(crate) enum Event {
    Connected {
        id: SessionId,
        writer: mpsc::Sender<Outgoing>,
    },
    Received {
        id: SessionId,
        frame: ClientFrame,
    },
    Garbage {
        id: SessionId,
        reason: String,
    },
    /// The connection's writer has room again.
    Writable(SessionId),
    Disconnected(SessionId),
    Greeted {
        id: SessionId,
        standing: Standing,
    },
    Merged {
        id: SessionId,
        outcomes: Vec<(Seq, MergeOutcome)>,
    },
    /// The store cannot greet or merge for it.
    Failed {
        id: SessionId,
        reason: String,
    },
    SnapshotStarted {
        reading: Reading,
        visibility: Visibility,
        rows_estimate: u64,
    },
    SnapshotRows {
        reading: Reading,
        rows: Vec<Delta>,
    },
    SnapshotEnded(Reading),
    SnapshotFailed(Reading),
    Shutdown,
}

/// A snapshot being read, and for which hub: an earlier hub's tickets mean nothing to a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) generation: u64,
    pub(crate) ticket: Ticket,
}

/// What a connection's writer is to do.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Frame(Box<ServerFrame>),
    Close,
}

/// The task that owns the hub.
pub(crate) struct Engine {
    store: Arc<dyn Store>,
    config: HubConfig,
    events: mpsc::Receiver<Event>,
    handle: mpsc::Sender<Event>,
    merges: mpsc::UnboundedSender<MergeRequest>,
    generation: u64,
    writers: HashMap<SessionId, mpsc::Sender<Outgoing>>,
    closing: BTreeSet<SessionId>,
    readers: HashMap<Ticket, mpsc::UnboundedSender<()>>,
}

/// Why the engine stopped serving a stretch of the log.
enum Ended {
    LogBroken,
    SchemaChanged,
    Shutdown,
}

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_secs(1);

impl Engine {
    /// Starts the tasks; the sender is how connections reach the hub.
    pub(crate) fn start(store: Arc<dyn Store>, config: HubConfig) -> mpsc::Sender<Event> {
        let (handle, events) = mpsc::channel(HUB_QUEUE_EVENTS);
        let merges = merging::start(Arc::clone(&store), handle.clone());
        let engine = Self {
            store,
            config,
            events,
            handle: handle.clone(),
            merges,
            generation: 0,
            writers: HashMap::new(),
            closing: BTreeSet::new(),
            readers: HashMap::new(),
        };
        tokio::spawn(engine.run());
        handle
    }

    async fn run(mut self) {
        let mut wait = RETRY_MIN;
        loop {
            match self.store.follow().await {
                Ok(log) => {
                    wait = RETRY_MIN;
                    match self.serve(log).await {
                        Ended::LogBroken => warn!("the store's log broke off; following it anew"),
                        Ended::SchemaChanged => {
                            info!("the schema changed; shapes are read anew");
                            continue;
                        }
                        Ended::Shutdown => return,
                    }
                }
                Err(error) => warn!(%error, "cannot follow the store's log yet; trying again"),
            }
            if self.refuse_for(wait).await {
                return;
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    /// While the store cannot be followed: tells connections to come back later. Whether to stop.
    async fn refuse_for(&mut self, wait: Duration) -> bool {
        let until = tokio::time::Instant::now() + wait;
        while let Ok(event) = tokio::time::timeout_at(until, self.events.recv()).await {
            match event {
                None | Some(Event::Shutdown) => return true,
                Some(Event::Connected { writer, .. }) => {
                    let refusal = ServerFrame::Refused {
                        code: RefusalCode::Unavailable,
                        message: "the service has no connection to its store yet".to_owned(),
                    };
                    let _ = writer.try_send(Outgoing::Frame(Box::new(refusal)));
                    let _ = writer.try_send(Outgoing::Close);
                }
                Some(_) => {}
            }
        }
        false
    }

    /// Serves with one hub, as long as the log holds.
    async fn serve(&mut self, mut log: mpsc::Receiver<LogEvent>) -> Ended {
        let schema = match self.store.schema().await {
            Ok(schema) => schema,
            Err(error) => {
                warn!(%error, "cannot read the schema");
                return Ended::LogBroken;
            }
        };
        self.generation += 1;
        let epoch = Epoch(clock::random());
        let mut hub = Hub::new(self.config.clone(), schema, epoch, Position(0));
        let mut tick = tokio::time::interval(TICK);
        let ended = loop {
            tokio::select! {
                event = self.events.recv() => match event {
                    None | Some(Event::Shutdown) => break Ended::Shutdown,
                    Some(event) => self.handle(&mut hub, event),
                },
                told = log.recv() => match told {
                    None => break Ended::LogBroken,
                    Some(LogEvent::Transaction(transaction)) => hub.store_transaction(transaction),
                    Some(LogEvent::Idle(position)) => hub.idle(position),
                    Some(LogEvent::SchemaChanged(_)) => break Ended::SchemaChanged,
                },
                _ = tick.tick() => hub.tick(clock::now()),
            }
            self.pump(&mut hub);
        };
        hub.end_sessions("the service lost its place in the store's log; connect again");
        self.pump(&mut hub);
        self.readers.clear();
        self.writers.clear();
        self.closing.clear();
        ended
    }

    fn handle(&mut self, hub: &mut Hub, event: Event) {
        let now: Millis = clock::now();
        match event {
            Event::Connected { id, writer } => {
                self.writers.insert(id, writer);
                hub.connect(id);
            }
            Event::Received { id, frame } => hub.receive(id, frame, now),
            Event::Garbage { id, reason } => hub.garbage(id, &reason),
            Event::Writable(id) => self.write(hub, id),
            Event::Disconnected(id) => {
                self.writers.remove(&id);
                self.closing.remove(&id);
                hub.disconnect(id);
                let _ = self.merges.send(MergeRequest::Forget(id));
            }
            Event::Greeted { id, standing } => hub.greeted(id, standing, now),
            Event::Merged { id, outcomes } => hub.merged(id, outcomes),
            Event::Failed { id, reason } => hub.failed(id, &reason),
            Event::SnapshotStarted {
                reading,
                visibility,
                rows_estimate,
            } => {
                if reading.generation == self.generation {
                    hub.snapshot_started(reading.ticket, visibility, rows_estimate);
                }
            }
            Event::SnapshotRows { reading, rows } => {
                if reading.generation == self.generation {
                    hub.snapshot_rows(reading.ticket, rows);
                }
            }
            Event::SnapshotEnded(reading) if reading.generation == self.generation => {
                self.readers.remove(&reading.ticket);
                hub.snapshot_ended(reading.ticket);
            }
            Event::SnapshotFailed(reading) if reading.generation == self.generation => {
                self.readers.remove(&reading.ticket);
                hub.snapshot_failed(reading.ticket);
            }
            Event::SnapshotEnded(_) | Event::SnapshotFailed(_) | Event::Shutdown => {}
        }
    }

    /// Carries out what the hub asks for and hands out the frames it has.
    fn pump(&mut self, hub: &mut Hub) {
        loop {
            while let Some(action) = hub.poll_action() {
                self.act(action);
            }
            match hub.poll_ready() {
                Some(id) => self.write(hub, id),
                None => break,
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Greet {
                session,
                replica,
                first_pending,
            } => {
                let _ = self.merges.send(MergeRequest::Greet {
                    session,
                    replica,
                    first_pending,
                });
            }
            Action::Merge { session, uploads } => {
                let _ = self.merges.send(MergeRequest::Merge { session, uploads });
            }
            Action::Snapshot { ticket, query } => {
                let reading = Reading {
                    generation: self.generation,
                    ticket,
                };
                let store = Arc::clone(&self.store);
                let more = reading::start(store, query, reading, self.handle.clone());
                self.readers.insert(ticket, more);
            }
            Action::ReadMore(ticket) => {
                if let Some(more) = self.readers.get(&ticket) {
                    let _ = more.send(());
                }
            }
            Action::CancelSnapshot(ticket) => {
                self.readers.remove(&ticket);
            }
            Action::Close(session) => {
                self.closing.insert(session);
            }
        }
    }

    /// Gives a connection's writer the frames it has room for.
    fn write(&mut self, hub: &mut Hub, id: SessionId) {
        let Some(writer) = self.writers.get(&id) else {
            return;
        };
        while let Ok(room) = writer.try_reserve() {
            match hub.poll_frame(id) {
                Some(frame) => room.send(Outgoing::Frame(Box::new(frame))),
                None => {
                    drop(room);
                    if self.closing.contains(&id) {
                        let sent = writer.try_send(Outgoing::Close);
                        if !matches!(sent, Err(TrySendError::Full(_))) {
                            self.closing.remove(&id);
                        }
                    }
                    return;
                }
            }
        }
    }
}
