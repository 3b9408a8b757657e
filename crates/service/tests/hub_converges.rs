//! Whatever the order in which transactions, snapshots, connections and frames come, every replica ends
//! with what its shapes are, and on the way holds exactly what they were at its cursors.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use anabranch_crdt::{ReplicaId, RowKey};
use anabranch_protocol::{Position, SubscriptionId};
use anabranch_service::hub::SessionId;
use common::{
    Bench, Job,
    replica::{Heard, NaiveReplica},
    sub,
};
use proptest::{collection::vec, prelude::*};

const FILTERS: [&str; 4] = [
    "",
    "owner = 1",
    "owner = 2",
    "owner >= 1 AND title LIKE 'a%'",
];
const REPLICAS: u8 = 3;

#[derive(Clone, Debug)]
enum Step {
    Write {
        rows: Vec<(i64, Option<i64>, bool)>,
        hidden: bool,
    },
    Reveal,
    Tell,
    Idle,
    Perform(usize),
    Fail(usize),
    Connect(u8),
    Drop(u8),
    Subscribe(u8, u8, usize),
    Unsubscribe(u8, u8),
    Push(u8, i64, i64, bool),
    Hear(u8, usize),
    Tick,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let replica = || 0..REPLICAS;
    let row = (
        0..8_i64,
        prop::option::weighted(0.8, 0..4_i64),
        any::<bool>(),
    );
    let step = prop_oneof![
        6 => (vec(row, 1..4), prop::bool::weighted(0.3))
            .prop_map(|(rows, hidden)| Step::Write { rows, hidden }),
        2 => Just(Step::Reveal),
        6 => Just(Step::Tell),
        1 => Just(Step::Idle),
        8 => any::<usize>().prop_map(Step::Perform),
        1 => any::<usize>().prop_map(Step::Fail),
        3 => replica().prop_map(Step::Connect),
        1 => replica().prop_map(Step::Drop),
        3 => (replica(), 0..3_u8, 0..FILTERS.len()).prop_map(|(r, s, f)| Step::Subscribe(r, s, f)),
        1 => (replica(), 0..3_u8).prop_map(|(r, s)| Step::Unsubscribe(r, s)),
        3 => (replica(), 0..8_i64, 0..4_i64, prop::bool::weighted(0.1))
            .prop_map(|(r, n, o, refuse)| Step::Push(r, n, o, refuse)),
        10 => (replica(), 1..6_usize).prop_map(|(r, n)| Step::Hear(r, n)),
        1 => Just(Step::Tick),
    ];
    vec(step, 1..120)
}

/// How often a row set was compared with the store at its cursor, over all runs.
static COMPARED: AtomicUsize = AtomicUsize::new(0);

struct World {
    bench: Bench,
    replicas: Vec<NaiveReplica>,
    sessions: BTreeMap<u8, SessionId>,
    woken: BTreeSet<SessionId>,
    fence: Position,
    titles: usize,
}

impl World {
    fn new() -> Self {
        Self {
            bench: Bench::new(),
            replicas: (1..=REPLICAS).map(NaiveReplica::new).collect(),
            sessions: BTreeMap::new(),
            woken: BTreeSet::new(),
            fence: Position(0),
            titles: 0,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write { rows, hidden } => self.write(rows, *hidden),
            Step::Reveal => self.bench.store.invisible.clear(),
            Step::Tell => {
                self.bench.tell_one();
            }
            Step::Idle => self.idle(),
            Step::Perform(index) => self.perform(*index),
            Step::Fail(index) => self.fail(*index),
            Step::Connect(replica) => self.connect(*replica),
            Step::Drop(replica) => self.disconnect(*replica),
            Step::Subscribe(replica, number, filter) => {
                let held = &mut self.replicas[usize::from(*replica)];
                let filter = FILTERS[*filter].to_owned();
                held.cursors.entry(sub(*number)).or_insert((filter, None));
                self.speak(*replica);
            }
            Step::Unsubscribe(replica, number) => self.unsubscribe(*replica, sub(*number)),
            Step::Push(replica, number, owner, refuse) => {
                self.titles += 1;
                let title = format!("a{}", self.titles);
                let title = if *refuse { "refuse" } else { &title };
                self.replicas[usize::from(*replica)].write(*number, *owner, title);
                self.speak(*replica);
            }
            Step::Hear(replica, frames) => {
                self.hear(*replica, *frames);
            }
            Step::Tick => self.bench.hub.tick(self.bench.now),
        }
        self.bench.collect();
        self.woken.extend(self.bench.ready());
    }

    fn write(&mut self, rows: &[(i64, Option<i64>, bool)], hidden: bool) {
        self.titles += 1;
        let title = self.titles;
        let mut writes = BTreeMap::new();
        for (number, owner, a) in rows {
            // A row's next writer waits for the one before to be over.
            if self.bench.store.locked(*number) {
                continue;
            }
            let title = format!("{}{title}", if *a { "a" } else { "b" });
            writes.insert(*number, owner.map(|owner| (owner, title)));
        }
        let writes: Vec<_> = writes
            .iter()
            .map(|(number, row)| {
                let row = row.as_ref().map(|(owner, title)| (*owner, title.as_str()));
                (*number, row)
            })
            .collect();
        if !writes.is_empty() {
            self.bench.store.write(&writes);
            if hidden {
                self.bench.store.hide_newest();
            }
        }
    }

    /// The log goes on without a transaction.
    fn idle(&mut self) {
        if self.bench.store.is_told() {
            self.bench.store.position.0 += 5;
            let position = self.bench.store.position;
            self.bench.hub.idle(position);
        }
    }

    fn perform(&mut self, index: usize) {
        let Some(mut index) = index.checked_rem(self.bench.jobs.len()) else {
            return;
        };
        let queued = |job: &Job| matches!(job, Job::Greet(..) | Job::Merge(..));
        if queued(&self.bench.jobs[index]) {
            index = self.bench.jobs.iter().position(queued).unwrap();
        }
        let job = self.bench.jobs.remove(index).unwrap();
        match &job {
            // Merges wait for the rows they touch.
            Job::Merge(..) => self.bench.store.invisible.clear(),
            Job::Start(..) => self.fence = self.bench.store.position,
            _ => {}
        }
        self.bench.perform(job);
    }

    fn fail(&mut self, index: usize) {
        let reading: Vec<_> = self.bench.reading.keys().copied().collect();
        if let Some(index) = index.checked_rem(reading.len()) {
            let ticket = reading[index];
            self.bench.reading.remove(&ticket);
            self.bench.cancelled.insert(ticket);
            self.bench.hub.snapshot_failed(ticket);
        }
    }

    fn connect(&mut self, replica: u8) {
        self.disconnect(replica);
        let id = self.bench.connect();
        let hello = self.replicas[usize::from(replica)].hello();
        self.bench.say(id, hello);
        self.sessions.insert(replica, id);
    }

    fn disconnect(&mut self, replica: u8) {
        if let Some(id) = self.sessions.remove(&replica) {
            self.bench.hub.disconnect(id);
            self.replicas[usize::from(replica)].disconnected();
        }
    }

    fn speak(&mut self, replica: u8) {
        if let Some(id) = self.sessions.get(&replica) {
            for frame in self.replicas[usize::from(replica)].speak() {
                self.bench.say(*id, frame);
            }
        }
    }

    fn unsubscribe(&mut self, replica: u8, id: SubscriptionId) {
        let held = &mut self.replicas[usize::from(replica)];
        let told = held.told.contains(&id);
        let frame = held.unsubscribe(id);
        if let Some(session) = self.sessions.get(&replica).filter(|_| told) {
            self.bench.say(*session, frame);
        }
    }

    /// Takes some frames for a replica, if the hub has said that there are any. Whether there were.
    fn hear(&mut self, replica: u8, frames: usize) -> bool {
        let Some(session) = self.sessions.get(&replica).copied() else {
            return false;
        };
        let mut some = false;
        for _ in 0..frames {
            self.woken.extend(self.bench.ready());
            if !self.woken.contains(&session) {
                break;
            }
            let Some(frame) = self.bench.frame(session) else {
                self.woken.remove(&session);
                break;
            };
            some = true;
            let heard = self.replicas[usize::from(replica)].hear(frame);
            self.check(replica, &heard);
            for frame in heard.answers {
                self.bench.say(session, frame);
            }
            self.speak(replica);
        }
        some
    }

    fn check(&self, replica: u8, heard: &Heard) {
        let held = &self.replicas[usize::from(replica)];
        for (seq, cursor) in &heard.acknowledged {
            let id = ReplicaId([held.number; 16]);
            let merged = self
                .bench
                .store
                .merged_at(id, *seq)
                .expect("nothing merged");
            match cursor {
                Some(cursor) => assert!(cursor.position >= merged),
                None => held
                    .told
                    .iter()
                    .for_each(|id| self.check_told(held, *id, merged)),
            }
        }
        for id in heard.moved.iter() {
            let at = heard.cursor.unwrap().position;
            self.check_rows(held, id, at);
        }
    }

    /// What happened to a subscription up to `position` has been told.
    fn check_told(&self, held: &NaiveReplica, id: SubscriptionId, position: Position) {
        let (filter, cursor) = &held.cursors[&id];
        let at = cursor.expect("acknowledged before the snapshot").position;
        let shape = |at| self.bench.store.shape_at(filter, at);
        assert!(at >= position || shape(at) == shape(position));
    }

    /// What is in a subscription is what was in the shape at its cursor, leaving out rows that its
    /// snapshot may have seen later versions of.
    fn check_rows(&self, held: &NaiveReplica, id: SubscriptionId, at: Position) {
        let later = self.bench.store.log.iter();
        let later = later.filter(|entry| entry.position > at && entry.position <= self.fence);
        let unsure: BTreeSet<&RowKey> = later
            .flat_map(|entry| entry.deltas.iter().map(|delta| &delta.key))
            .collect();
        let mut expected: BTreeSet<RowKey> = self
            .bench
            .store
            .shape_at(&held.cursors[&id].0, at)
            .into_keys()
            .collect();
        let mut found = held.keys_in(id);
        expected.retain(|key| !unsure.contains(key));
        found.retain(|key| !unsure.contains(key));
        COMPARED.fetch_add(1, Ordering::Relaxed);
        assert_eq!(found, expected, "subscription {id:?} at {at:?}");
    }

    /// Everything comes to an end, on the hub's own word alone: no tick wakes a session.
    fn settle(&mut self) {
        self.bench.store.invisible.clear();
        for replica in 0..REPLICAS {
            if !self.sessions.contains_key(&replica) {
                self.connect(replica);
            }
        }
        for _ in 0..10_000 {
            let mut busy = self.bench.tell_one();
            if self.bench.store.is_told() {
                self.bench.hub.idle(self.bench.store.position);
            }
            self.bench.collect();
            if !self.bench.jobs.is_empty() {
                self.perform(0);
                busy = true;
            }
            for replica in 0..REPLICAS {
                self.speak(replica);
                busy |= self.hear(replica, 100);
            }
            self.bench.collect();
            if !busy {
                return;
            }
        }
        panic!("it does not come to an end");
    }

    fn check_end(&self) {
        for held in &self.replicas {
            assert!(
                held.caught_up || held.cursors.is_empty(),
                "never told it is up to date"
            );
            assert!(
                held.outbox.is_empty(),
                "never told of {:?}",
                held.outbox.keys()
            );
            let mut all = BTreeMap::new();
            for (id, (filter, _)) in &held.cursors {
                let rows = self.bench.store.shape_at(filter, Position(u64::MAX));
                assert_eq!(held.keys_in(*id), rows.keys().cloned().collect());
                all.extend(rows);
            }
            let states = held
                .rows
                .iter()
                .map(|(key, (_, state))| (key.clone(), state.clone()));
            assert_eq!(states.collect::<BTreeMap<_, _>>(), all);
        }
    }
}

#[test]
fn every_replica_ends_with_what_its_shapes_are() {
    let config = ProptestConfig {
        cases: ProptestConfig::default().cases.max(600),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(steps in steps())| {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.settle();
        world.check_end();
    });
    assert!(
        COMPARED.load(Ordering::Relaxed) > 1_000,
        "hardly anything was compared"
    );
}
