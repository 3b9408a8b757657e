//! A replica that does what the frames say, and no more.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_crdt::{Delta, ReplicaId, RowKey, RowState};
use anabranch_protocol::{
    Change, ClientFrame, Cursor, LocalTransaction, Seq, ServerFrame, Subscription, SubscriptionId,
    SubscriptionSet, session::ClientSession, session::Greeting,
};

use super::{spelled, store};

/// What a replica holds on to between its sessions, and where the present one stands.
pub struct NaiveReplica {
    pub number: u8,
    pub rows: BTreeMap<RowKey, (SubscriptionSet, RowState)>,
    pub cursors: BTreeMap<SubscriptionId, (String, Option<Cursor>)>,
    pub outbox: BTreeMap<Seq, LocalTransaction>,
    pub rejected: BTreeSet<Seq>,
    pub caught_up: bool,
    pub open: bool,
    pub told: BTreeSet<SubscriptionId>,
    staged: BTreeMap<SubscriptionId, Vec<Delta>>,
    session: ClientSession,
    next_seq: u64,
}

/// What a frame did to a replica.
#[derive(Debug, Default)]
pub struct Heard {
    pub acknowledged: Vec<(Seq, Option<Cursor>)>,
    pub moved: SubscriptionSet,
    pub cursor: Option<Cursor>,
    pub answers: Vec<ClientFrame>,
}

impl NaiveReplica {
    pub fn new(number: u8) -> Self {
        Self {
            number,
            rows: BTreeMap::new(),
            cursors: BTreeMap::new(),
            outbox: BTreeMap::new(),
            rejected: BTreeSet::new(),
            caught_up: false,
            open: false,
            told: BTreeSet::new(),
            staged: BTreeMap::new(),
            session: ClientSession::default(),
            next_seq: 1,
        }
    }

    pub fn hello(&mut self) -> ClientFrame {
        self.staged.clear();
        self.told.clear();
        self.caught_up = false;
        let first_pending = self.outbox.keys().next().copied();
        self.session.connected(Greeting {
            replica: ReplicaId([self.number; 16]),
            token: String::new(),
            schema_version: store::SCHEMA_VERSION,
            first_pending: first_pending.unwrap_or(Seq(self.next_seq)),
        })
    }

    pub fn disconnected(&mut self) {
        self.open = false;
    }

    pub fn write(&mut self, number: i64, owner: i64, title: &str) {
        let seq = self.next_seq;
        self.next_seq += 1;
        let transaction = store::local(self.number, seq, number, owner, title);
        self.outbox.insert(Seq(seq), transaction);
    }

    /// What it has to say of its own accord.
    pub fn speak(&mut self) -> Vec<ClientFrame> {
        let mut said = Vec::new();
        if !self.open {
            return said;
        }
        let cursors = self.cursors.iter();
        let fresh: Vec<Subscription> = cursors
            .filter(|(id, _)| !self.told.contains(id))
            .map(|(id, (filter, cursor))| Subscription {
                id: *id,
                shape: spelled(filter),
                cursor: *cursor,
            })
            .collect();
        if !fresh.is_empty() {
            self.caught_up = false;
            self.told.extend(fresh.iter().map(|wanted| wanted.id));
            said.push(ClientFrame::Subscribe(fresh));
        }
        if let Some((after, most)) = self.session.push_window() {
            let pending = self.outbox.range(after.next()..).take(most as usize);
            let push: Vec<_> = pending
                .map(|(_, transaction)| transaction.clone())
                .collect();
            if let Some(last) = push.last() {
                let count = u32::try_from(push.len()).unwrap();
                self.session.pushed(last.seq, count);
                said.push(ClientFrame::Push(push));
            }
        }
        said
    }

    pub fn unsubscribe(&mut self, id: SubscriptionId) -> ClientFrame {
        self.cursors.remove(&id);
        self.told.remove(&id);
        self.staged.remove(&id);
        self.let_go(id, |_| true);
        ClientFrame::Unsubscribe(id)
    }

    pub fn hear(&mut self, frame: ServerFrame) -> Heard {
        self.session.receive(&frame).unwrap();
        let mut heard = Heard::default();
        let costs = match frame {
            ServerFrame::Welcome { .. } => {
                self.open = true;
                false
            }
            ServerFrame::Snapshot { id, rows, .. } => {
                assert!(self.told.contains(&id), "a snapshot that nobody asked for");
                self.staged.entry(id).or_default().extend(rows);
                true
            }
            ServerFrame::SnapshotEnd { id, cursor } => {
                self.finish(id, cursor);
                heard.moved = SubscriptionSet::only(id);
                heard.cursor = Some(cursor);
                true
            }
            ServerFrame::SnapshotReset(id) => {
                self.staged.remove(&id);
                false
            }
            ServerFrame::Transaction {
                cursor,
                live,
                accepted,
                changes,
                more,
            } => {
                let acknowledged = accepted.into_iter().map(|seq| (seq, Some(cursor)));
                heard.acknowledged = acknowledged.collect();
                self.merge(cursor, live, changes, more);
                heard.moved = live;
                heard.cursor = Some(cursor);
                true
            }
            ServerFrame::Accepted(seq) => {
                heard.acknowledged.push((seq, None));
                false
            }
            ServerFrame::Rejected { seq, .. } => {
                self.outbox.remove(&seq);
                self.rejected.insert(seq);
                false
            }
            ServerFrame::Unsubscribed(_)
            | ServerFrame::Credit(_)
            | ServerFrame::Refused { .. }
            | ServerFrame::Schema(_)
            | ServerFrame::SubscriptionRefused { .. } => false,
        };
        for (seq, _) in &heard.acknowledged {
            self.outbox.remove(seq);
        }
        if costs {
            heard.answers.extend(self.session.applied());
        }
        heard
    }

    fn merge(&mut self, cursor: Cursor, live: SubscriptionSet, changes: Vec<Change>, more: bool) {
        for change in changes {
            let held = self.rows.remove(&change.key);
            let known = held.is_some();
            let (set, mut state) = held.unwrap_or_default();
            let set = set.updated(live, change.shapes);
            let merged = state.merge(&change.state);
            assert!(known || !change.shapes.is_empty() || !merged.is_present);
            if !set.is_empty() {
                self.rows.insert(change.key, (set, state));
            }
        }
        for id in live.iter() {
            self.cursors.get_mut(&id).unwrap().1 = Some(cursor);
        }
        let all = self.told.iter();
        let all = all.fold(SubscriptionSet::EMPTY, |set, id| set.with(*id));
        self.caught_up = !more && live == all;
    }

    fn finish(&mut self, id: SubscriptionId, cursor: Cursor) {
        let staged = self.staged.remove(&id).unwrap_or_default();
        let came: BTreeSet<RowKey> = staged.iter().map(|delta| delta.key.clone()).collect();
        for delta in staged {
            let (set, state) = self.rows.entry(delta.key).or_default();
            *set = set.with(id);
            let merged = state.merge(&delta.state);
            assert!(merged.is_present, "a row of a snapshot that is not there");
        }
        self.let_go(id, |key| !came.contains(key));
        self.cursors.get_mut(&id).unwrap().1 = Some(cursor);
    }

    fn let_go(&mut self, id: SubscriptionId, gone: impl Fn(&RowKey) -> bool) {
        for (key, (set, _)) in &mut self.rows {
            if gone(key) {
                *set = set.without(id);
            }
        }
        self.rows.retain(|_, (set, _)| !set.is_empty());
    }

    /// The rows it holds for a subscription.
    pub fn keys_in(&self, id: SubscriptionId) -> BTreeSet<RowKey> {
        let held = self.rows.iter().filter(|(_, (set, _))| set.contains(id));
        held.map(|(key, _)| key.clone()).collect()
    }
}
