//! The virtual world: a clock, a queue of what will happen, a network that breaks.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    path::PathBuf,
};

use anabranch_crdt::{Millis, ReplicaId};
use anabranch_protocol::{
    ClientFrame, Seq, ServerFrame,
    codec::{
        Assembler, decode_client_frame, decode_server_frame, encode_client_frame,
        encode_server_frame, fragments,
    },
    limits::FRAME_BYTES_MAX,
};
use anabranch_service::hub::SessionId;
use tempfile::TempDir;

use super::{
    Failure, Rng,
    check::Model,
    peer::Peer,
    service::{Job, Service},
    workload,
};

/// How a run is set up. The rates are chances in a thousand, at each step of the workload.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many replicas.
    pub replicas: usize,
    /// How many steps of the workload, before the quiet.
    pub steps: usize,
    /// A connection breaks.
    pub disconnect: u64,
    /// A replica is cut off for a while.
    pub partition: u64,
    /// A replica's process is killed and started again.
    pub replica_crash: u64,
    /// The service's process is killed and started again.
    pub service_crash: u64,
    /// A replica's clock jumps.
    pub clock_jump: u64,
    /// The store forgets removed rows.
    pub forgetting: u64,
    /// A replica lets go of a shape, or subscribes again to one that it let go of.
    pub shape_change: u64,
}

impl Options {
    /// Options drawn from the seed, so that runs differ in kind and not only in detail.
    pub fn swarm(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5eed);
        let mut rate = |most: u64| if rng.chance(400) { 0 } else { rng.below(most) };
        let (disconnect, partition) = (rate(120), rate(60));
        let (replica_crash, service_crash, clock_jump) = (rate(60), rate(40), rate(60));
        let forgetting = rate(160);
        let shape_change = rate(120);
        Self {
            replicas: usize::try_from(rng.below(3)).unwrap_or(0) + 2,
            steps: usize::try_from(rng.below(80)).unwrap_or(0) + 30,
            disconnect,
            partition,
            replica_crash,
            service_crash,
            clock_jump,
            forgetting,
            shape_change,
        }
    }
}

/// What a run did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// A hash over every frame, time and fault: equal traces mean equal runs.
    pub trace: u64,
    /// Local transactions committed.
    pub transactions: u64,
    /// Of those, refused by the store.
    pub rejected: u64,
    /// Faults injected.
    pub faults: u64,
    /// Rows compared with the store at the end.
    pub rows_compared: u64,
    /// Virtual milliseconds that passed.
    pub virtual_ms: u64,
}

/// What will happen.
#[derive(Debug)]
pub(super) enum Happening {
    /// Bytes arrive at the service.
    AtService { session: SessionId, frame: Vec<u8> },
    /// Bytes arrive at a replica.
    AtReplica { session: SessionId, frame: Vec<u8> },
    /// The service notices that a connection is gone.
    ServiceLost(SessionId),
    /// The replica notices.
    ReplicaLost(SessionId),
    /// A connection attempt of a replica arrives.
    Connects { peer: usize },
    /// A replica looks whether to connect.
    Wakes { peer: usize },
    /// The service's edge has work.
    Job { generation: u64, job: Job },
    /// The service starts again.
    ServiceStarts,
    /// The next step of the workload.
    Step,
}

/// A connection: who holds its other end, and what the network does to it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: usize,
    /// The time of the last delivery each way: a connection keeps its order.
    up_at: u64,
    down_at: u64,
    up: Assembler,
    down: Assembler,
    broken: bool,
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) now: u64,
    pub(super) options: Options,
    pub(super) peers: Vec<Peer>,
    pub(super) service: Service,
    pub(super) model: Model,
    /// What each local transaction added to the counters that are added up.
    pub(super) hits: BTreeMap<(ReplicaId, Seq), i64>,
    pub(super) links: BTreeMap<SessionId, Link>,
    pub(super) faults: u64,
    pub(super) rows_compared: u64,
    pub(super) quiet: bool,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    next_happening: u64,
    next_session: u64,
    steps_left: usize,
    trace: u64,
    /// Removed with everything in it when the run ends.
    _folder: TempDir,
}

/// Virtual time begins here; any time after the engine was made will do.
const START_MS: u64 = 1_800_000_000_000;
/// How long after the last fault everything must have arrived. Two of the longest waits between
/// tries, and time to send it all.
const SETTLE_MAX_MS: u64 = 180_000;

impl World {
    /// A replica has committed a transaction, if `seq` names one, that added `hits`.
    pub(super) fn committed(
        &mut self,
        index: usize,
        seq: Option<Seq>,
        hits: i64,
    ) -> Result<(), Failure> {
        if let (Some(seq), Some(peer)) = (seq, self.peers.get_mut(index)) {
            peer.committed += 1;
            self.hits.insert((peer.replica()?.id(), seq), hits);
        }
        Ok(())
    }

    pub(super) fn new(seed: u64, options: Options) -> Result<Self, Failure> {
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() {
            TempDir::new_in(memory)
        } else {
            TempDir::new()
        };
        let folder = folder.map_err(|error| Failure::broken("no temporary folder", error))?;
        let mut rng = Rng::new(seed);
        let service = Service::new(folder.path(), START_MS, &mut rng)?;
        let mut world = Self {
            now: START_MS,
            peers: Vec::new(),
            service,
            model: Model::default(),
            hits: BTreeMap::new(),
            links: BTreeMap::new(),
            faults: 0,
            rows_compared: 0,
            quiet: false,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next_happening: 0,
            next_session: 1,
            steps_left: options.steps,
            trace: seed,
            rng,
            options,
            _folder: folder,
        };
        world.start_service()?;
        for index in 0..world.options.replicas {
            let path = world._folder.path().join(format!("replica-{index}"));
            let mut peer = Peer::new(path, START_MS, &mut world.rng)?;
            workload::subscribe(&mut peer, &mut world.rng)?;
            world.peers.push(peer);
            world.after(0, Happening::Wakes { peer: index });
        }
        world.after(10, Happening::Step);
        Ok(world)
    }

    pub(super) fn after(&mut self, delay_ms: u64, happening: Happening) {
        self.at(self.now + delay_ms, happening);
    }

    fn at(&mut self, time_ms: u64, happening: Happening) {
        let number = self.next_happening;
        self.next_happening += 1;
        self.queue.push(Reverse((time_ms, number)));
        self.happenings.insert(number, happening);
    }

    /// Notes something in the trace.
    pub(super) fn note(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&self.now.to_le_bytes()) {
            self.trace = (self.trace ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Plays the workload with its faults.
    pub(super) fn play(&mut self) -> Result<(), Failure> {
        while self.steps_left > 0 && self.turn()? {}
        Ok(())
    }

    /// Heals everything and waits until nothing is under way.
    pub(super) fn settle(&mut self) -> Result<(), Failure> {
        self.quiet = true;
        for peer in &mut self.peers {
            peer.cut_off = false;
        }
        let deadline = self.now + SETTLE_MAX_MS;
        while !self.is_settled()? {
            if self.now > deadline || !self.turn()? {
                let state = self.peers.iter().map(Peer::describe).collect::<Vec<_>>();
                return Err(Failure::Stalled(SETTLE_MAX_MS, state.join("; ")));
            }
        }
        Ok(())
    }

    fn is_settled(&mut self) -> Result<bool, Failure> {
        if !self.service.is_settled()? {
            return Ok(false);
        }
        let under_way = self.happenings.values().any(|happening| {
            matches!(
                happening,
                Happening::AtService { .. }
                    | Happening::AtReplica { .. }
                    | Happening::ServiceStarts
                    | Happening::ServiceLost(_)
                    | Happening::ReplicaLost(_)
            ) || matches!(happening, Happening::Job { job, .. } if !matches!(job, Job::Tick))
        });
        Ok(!under_way && self.peers.iter().all(Peer::is_settled))
    }

    /// Lets the next thing happen; whether there was one.
    fn turn(&mut self) -> Result<bool, Failure> {
        let Some(Reverse((time, number))) = self.queue.pop() else {
            return Ok(false);
        };
        self.now = self.now.max(time);
        for peer in &self.peers {
            peer.set_time(self.now);
        }
        if let Some(happening) = self.happenings.remove(&number) {
            self.happen(happening)?;
        }
        Ok(true)
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Failure> {
        match happening {
            Happening::AtService { session, frame } => self.arrive_at_service(session, &frame)?,
            Happening::AtReplica { session, frame } => self.arrive_at_replica(session, &frame)?,
            Happening::ServiceLost(session) => {
                self.service.with_hub(|hub| hub.disconnect(session));
            }
            Happening::ReplicaLost(session) => {
                if let Some(link) = self.links.remove(&session) {
                    self.lose(link.peer, session, "the connection broke");
                }
            }
            Happening::Connects { peer } => self.connect(peer)?,
            Happening::Wakes { peer } => self.wake(peer),
            Happening::Job { generation, job } => self.service_job(generation, job)?,
            Happening::ServiceStarts => self.start_service()?,
            Happening::Step => self.step()?,
        }
        self.pump_service()
    }

    fn step(&mut self) -> Result<(), Failure> {
        if self.quiet {
            return Ok(());
        }
        self.steps_left -= 1;
        workload::step(self)?;
        let pause = self.rng.below(400);
        self.after(pause, Happening::Step);
        Ok(())
    }

    fn wake(&mut self, index: usize) {
        let now = self.now;
        let latency = 1 + self.rng.below(80);
        let Some(peer) = self.peers.get_mut(index) else {
            return;
        };
        if peer.session.is_none() && peer.driver.poll_connect(Millis(now)) {
            self.after(latency, Happening::Connects { peer: index });
        } else if let Some(until) = peer.driver.poll_timeout() {
            let wait = until.0.saturating_sub(now).max(1);
            self.after(wait, Happening::Wakes { peer: index });
        }
    }

    fn connect(&mut self, index: usize) -> Result<(), Failure> {
        let up = self.service.is_up();
        let Some(peer) = self.peers.get_mut(index) else {
            return Ok(());
        };
        if peer.cut_off || !up {
            self.fail_to_connect(index);
            return Ok(());
        }
        let session = SessionId(self.next_session);
        self.next_session += 1;
        peer.session = Some(session);
        peer.connected()?;
        let link = Link {
            peer: index,
            up_at: 0,
            down_at: 0,
            up: Assembler::new(FRAME_BYTES_MAX),
            down: Assembler::new(FRAME_BYTES_MAX),
            broken: false,
        };
        self.links.insert(session, link);
        self.service.with_hub(|hub| hub.connect(session));
        self.pump_replica(index)
    }

    fn fail_to_connect(&mut self, index: usize) {
        let (now, random) = (Millis(self.now), self.rng.next());
        if let Some(peer) = self.peers.get_mut(index) {
            peer.driver.disconnected(now, random, "no route");
        }
        self.after(0, Happening::Wakes { peer: index });
    }

    /// The replica has lost a connection; it will try again.
    pub(super) fn lose(&mut self, index: usize, session: SessionId, reason: &str) {
        let (now, random) = (Millis(self.now), self.rng.next());
        let Some(peer) = self.peers.get_mut(index) else {
            return;
        };
        if peer.session == Some(session) {
            peer.session = None;
            peer.driver.disconnected(now, random, reason);
            self.after(0, Happening::Wakes { peer: index });
        }
    }

    /// Breaks a connection: frames under way may still arrive, or not, and each side notices in its
    /// own time.
    pub(super) fn break_link(&mut self, session: SessionId) {
        let swallow = self.rng.chance(700);
        if swallow {
            self.happenings.retain(|_, happening| match happening {
                Happening::AtService { session: other, .. }
                | Happening::AtReplica { session: other, .. } => *other != session,
                _ => true,
            });
        }
        if let Some(link) = self.links.get_mut(&session) {
            link.broken = true;
        }
        let (service_ms, replica_ms) = (self.rng.below(5_000), self.rng.below(500));
        self.after(service_ms, Happening::ServiceLost(session));
        self.after(replica_ms, Happening::ReplicaLost(session));
    }

    /// Sends what a replica has to say.
    pub(super) fn pump_replica(&mut self, index: usize) -> Result<(), Failure> {
        loop {
            let Some(peer) = self.peers.get_mut(index) else {
                return Ok(());
            };
            let Some(session) = peer.session else {
                return Ok(());
            };
            let Some(frame) = peer.poll_frame()? else {
                return Ok(());
            };
            self.send_up(session, &frame)?;
        }
    }

    fn send_up(&mut self, session: SessionId, frame: &ClientFrame) -> Result<(), Failure> {
        let bytes = encode_client_frame(frame).map_err(|error| Failure::broken("codec", error))?;
        let arrival = |session, frame| Happening::AtService { session, frame };
        self.transmit(session, &bytes, |link| &mut link.up_at, arrival);
        Ok(())
    }

    pub(super) fn send_down(
        &mut self,
        session: SessionId,
        frame: &ServerFrame,
    ) -> Result<(), Failure> {
        let bytes = encode_server_frame(frame).map_err(|error| Failure::broken("codec", error))?;
        let arrival = |session, frame| Happening::AtReplica { session, frame };
        self.transmit(session, &bytes, |link| &mut link.down_at, arrival);
        Ok(())
    }

    /// Puts a frame's fragments on a connection, each after the one before it.
    fn transmit(
        &mut self,
        session: SessionId,
        bytes: &[u8],
        last_delivery: impl Fn(&mut Link) -> &mut u64,
        arrival: impl Fn(SessionId, Vec<u8>) -> Happening,
    ) {
        self.note(bytes);
        for fragment in fragments(bytes) {
            let soonest = self.now + 1 + self.rng.below(120);
            let Some(link) = self.links.get_mut(&session).filter(|link| !link.broken) else {
                return;
            };
            let time = last_delivery(link);
            *time = soonest.max(*time);
            let time = *time;
            self.at(time, arrival(session, fragment));
        }
    }

    fn arrive_at_service(&mut self, session: SessionId, bytes: &[u8]) -> Result<(), Failure> {
        let Some(link) = self.links.get_mut(&session) else {
            return Ok(());
        };
        let whole = link
            .up
            .push(bytes)
            .map_err(|error| Failure::broken("codec", error))?;
        if let Some(frame) = whole {
            let frame = decode_client_frame(&frame);
            let frame = frame.map_err(|error| Failure::broken("codec", error))?;
            let now = Millis(self.now);
            self.service
                .with_hub(|hub| hub.receive(session, frame, now));
        }
        Ok(())
    }

    fn arrive_at_replica(&mut self, session: SessionId, bytes: &[u8]) -> Result<(), Failure> {
        let Some(link) = self.links.get_mut(&session) else {
            return Ok(());
        };
        let index = link.peer;
        let whole = link
            .down
            .push(bytes)
            .map_err(|error| Failure::broken("codec", error))?;
        let Some(peer) = self.peers.get_mut(index) else {
            return Ok(());
        };
        if peer.session != Some(session) {
            return Ok(());
        }
        if let Some(frame) = whole {
            let frame = decode_server_frame(&frame);
            let frame = frame.map_err(|error| Failure::broken("codec", error))?;
            peer.receive(frame)?;
        }
        self.pump_replica(index)
    }

    pub(super) fn report(&self) -> Report {
        Report {
            trace: self.trace,
            transactions: self.peers.iter().map(|peer| peer.committed).sum(),
            rejected: self.peers.iter().map(|peer| peer.rejected).sum(),
            faults: self.faults,
            rows_compared: self.rows_compared,
            virtual_ms: self.now - START_MS,
        }
    }
}
