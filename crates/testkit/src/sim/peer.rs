//! A replica in the simulator: a real file, a real driver, and a clock that may be wrong.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use anabranch_client::Driver;
use anabranch_crdt::{Millis, ReplicaId};
use anabranch_protocol::{ClientFrame, ServerFrame, ShapeRequest};
use anabranch_replica::{Event, OpenOptions, Replica, Synchronous};
use anabranch_service::hub::SessionId;

use super::{Failure, Rng};

pub(super) struct Peer {
    pub(super) driver: Driver,
    pub(super) session: Option<SessionId>,
    /// Whether the network keeps it from connecting.
    pub(super) cut_off: bool,
    pub(super) committed: u64,
    pub(super) rejected: u64,
    /// Shapes that it has let go of and may want again.
    pub(super) let_go: Vec<ShapeRequest>,
    /// How many rows of theirs it keeps.
    retained_rows_max: u64,
    replica: Option<Replica>,
    path: PathBuf,
    id: ReplicaId,
    time_ms: Arc<AtomicU64>,
    skew_ms: Arc<AtomicI64>,
}

impl Peer {
    pub(super) fn new(path: PathBuf, now_ms: u64, rng: &mut Rng) -> Result<Self, Failure> {
        let mut id = [0; 16];
        for chunk in id.chunks_mut(8) {
            chunk.copy_from_slice(&rng.next().to_le_bytes());
        }
        let mut peer = Self {
            driver: Driver::new(""),
            session: None,
            cut_off: false,
            committed: 0,
            rejected: 0,
            let_go: Vec::new(),
            retained_rows_max: rng.pick(&[0, 8, 1_000]).copied().unwrap_or(0),
            replica: None,
            path,
            id: ReplicaId(id),
            time_ms: Arc::new(AtomicU64::new(now_ms)),
            skew_ms: Arc::new(AtomicI64::new(0)),
        };
        peer.open()?;
        Ok(peer)
    }

    fn file(&self) -> PathBuf {
        self.path.with_extension("db")
    }

    fn open(&mut self) -> Result<(), Failure> {
        let (time, skew) = (Arc::clone(&self.time_ms), Arc::clone(&self.skew_ms));
        let id = self.id;
        let options = OpenOptions {
            now: Arc::new(move || {
                let time = time.load(Ordering::Relaxed);
                Millis(time.saturating_add_signed(skew.load(Ordering::Relaxed)))
            }),
            new_id: Box::new(move || id),
            synchronous: Synchronous::Normal,
            retained_rows_max: self.retained_rows_max,
            busy_timeout: Duration::from_secs(5),
            ..OpenOptions::system()
        };
        let replica = Replica::open(self.file(), options);
        self.replica = Some(replica.map_err(|error| Failure::broken("cannot open", error))?);
        Ok(())
    }

    pub(super) fn replica(&mut self) -> Result<&mut Replica, Failure> {
        self.replica
            .as_mut()
            .ok_or_else(|| Failure::Broken("the replica is closed".to_owned()))
    }

    /// Another program's connection to the replica's file.
    pub(super) fn foreign_connection(&self) -> Result<rusqlite::Connection, Failure> {
        let opened = rusqlite::Connection::open(self.file());
        opened.map_err(|error| Failure::broken("cannot open as another program", error))
    }

    pub(super) fn set_time(&self, now_ms: u64) {
        self.time_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(super) fn set_skew(&self, skew_ms: i64) {
        self.skew_ms.store(skew_ms, Ordering::Relaxed);
    }

    /// Kills the replica's process and starts it again: what the new one finds is what the files held
    /// at that moment, the write-ahead log unfinished.
    pub(super) fn crash(&mut self) -> Result<(), Failure> {
        self.count_rejections();
        let (file, aside) = (self.file(), self.path.with_extension("killed"));
        copy_file(&file, &aside)?;
        self.replica = None;
        // Back into the same file, since a replica in another one would be a copy.
        copy_file(&aside, &file)?;
        self.driver = Driver::new("");
        self.session = None;
        self.open()
    }

    pub(super) fn connected(&mut self) -> Result<(), Failure> {
        let Self {
            driver, replica, ..
        } = self;
        let Some(replica) = replica else {
            return Ok(());
        };
        let connected = driver.connected(replica);
        connected.map_err(|error| Failure::broken("cannot begin a session", error))
    }

    pub(super) fn receive(&mut self, frame: ServerFrame) -> Result<(), Failure> {
        let Self {
            driver, replica, ..
        } = self;
        let Some(replica) = replica else {
            return Ok(());
        };
        let what = format!("cannot take {frame:?} in");
        let received = driver.receive(replica, frame);
        received.map_err(|error| Failure::broken(&what, error))?;
        self.count_rejections();
        Ok(())
    }

    pub(super) fn poll_frame(&mut self) -> Result<Option<ClientFrame>, Failure> {
        let Self {
            driver, replica, ..
        } = self;
        let Some(replica) = replica else {
            return Ok(None);
        };
        let polled = driver.poll_frame(replica);
        polled.map_err(|error| Failure::broken("cannot poll", error))
    }

    fn count_rejections(&mut self) {
        let events = self.replica.as_mut().map(Replica::take_events);
        let rejected = |event: &&Event| matches!(event, Event::Rejected { .. });
        let count = events.unwrap_or_default().iter().filter(rejected).count();
        self.rejected += count as u64;
    }

    pub(super) fn is_settled(&self) -> bool {
        let status = self
            .replica
            .as_ref()
            .and_then(|replica| replica.status().ok());
        self.driver.is_caught_up() && status.is_some_and(|status| status.pending == 0)
    }

    pub(super) fn describe(&self) -> String {
        let status = self.replica.as_ref().map(Replica::status);
        format!("{:?} {status:?}", self.driver.phase())
    }
}

/// Copies a SQLite file with its write-ahead log, over what is there.
fn copy_file(from: &Path, to: &Path) -> Result<(), Failure> {
    for suffix in ["", "-wal"] {
        let (from, to) = (with_suffix(from, suffix), with_suffix(to, suffix));
        let copied = if from.exists() {
            std::fs::copy(from, to).map(drop)
        } else if to.exists() {
            std::fs::remove_file(to)
        } else {
            Ok(())
        };
        copied.map_err(|error| Failure::broken("cannot copy a replica's file", error))?;
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
