//! A replica in the scenarios: a real file that pushes to the store and hears its log. No scenario lies
//! here.

use std::sync::Arc;

use anabranch_crdt::{Millis, ReplicaId};
use anabranch_protocol::{
    Change, Cursor, Epoch, LocalTransaction, Position, Seq, ShapeRequest, SubscriptionId,
    SubscriptionSet, codec::hash_transaction,
};
use anabranch_replica::{OpenOptions, Replica, Synchronous};
use anabranch_store::{MergeOutcome, Upload};

use super::{START, Site};

/// A replica that holds everything, and is told when it listens.
pub struct Peer {
    /// The replica.
    pub replica: Replica,
    id: SubscriptionId,
    /// How much of the log it has been told.
    told: Position,
    _directory: tempfile::TempDir,
}

impl Peer {
    /// A replica with a snapshot of these tables.
    pub fn new(number: u8, store: &mut Site, tables: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = OpenOptions {
            now: Arc::new(move || Millis(START + u64::from(number))),
            new_id: Box::new(move || ReplicaId([number; 16])),
            synchronous: Synchronous::Normal,
            busy_timeout: std::time::Duration::from_secs(1),
            ..OpenOptions::system()
        };
        let mut replica = Replica::open(directory.path().join("r.db"), options).unwrap();
        replica
            .adopt_schema((*store.core.schema()).clone())
            .unwrap();
        let everything = ShapeRequest::Named {
            name: "all".to_owned(),
            parameters: Vec::new(),
        };
        let id = replica.subscribe(&everything).unwrap();
        let told = store.core.position().unwrap();
        for name in tables {
            let table = store.table(name);
            let rows = store.rows(name).into_iter();
            let rows = rows.map(|(key, state)| anabranch_crdt::Delta { table, key, state });
            replica.stage_snapshot(id, rows.collect(), 0).unwrap();
        }
        replica
            .finish_snapshot(
                id,
                Cursor {
                    epoch: Epoch(1),
                    position: told,
                },
            )
            .unwrap();
        Self {
            replica,
            id,
            told,
            _directory: directory,
        }
    }

    /// Pushes what waits, and tells what became of it; refusals come back at once.
    pub fn push(&mut self, store: &mut Site) -> Vec<(LocalTransaction, MergeOutcome)> {
        let mut told = Vec::new();
        let uploads: Vec<Upload> = self
            .replica
            .pending(Seq(0), usize::MAX)
            .unwrap()
            .into_iter()
            .map(|transaction| Upload {
                replica: self.replica.id(),
                hash: hash_transaction(&transaction).unwrap(),
                transaction,
            })
            .collect();
        let outcomes = store.core.merge(uploads.clone()).unwrap();
        for (upload, outcome) in uploads.iter().zip(outcomes) {
            let seq = upload.transaction.seq;
            told.push((upload.transaction.clone(), outcome.clone()));
            match outcome {
                MergeOutcome::Merged => {}
                MergeOutcome::Duplicate(_) => {
                    self.listen(store);
                    self.replica.accepted(seq).unwrap();
                }
                MergeOutcome::Rejected(why) => {
                    self.replica
                        .rejected(seq, why.code, why.reason, why.rows)
                        .unwrap();
                }
            }
        }
        told
    }

    /// Hears the log.
    pub fn listen(&mut self, store: &mut Site) {
        let live = SubscriptionSet::only(self.id);
        for transaction in store.core.changes_since(self.told).unwrap() {
            self.told = transaction.position;
            let own = transaction
                .origins
                .iter()
                .filter(|(who, _)| *who == self.replica.id());
            let accepted = own.map(|(_, seq)| *seq).collect();
            let changes = transaction.deltas.into_iter().map(|delta| Change {
                shapes: if delta.state.existence().is_present() {
                    live
                } else {
                    SubscriptionSet::EMPTY
                },
                table: delta.table,
                key: delta.key,
                state: delta.state,
            });
            let cursor = Cursor {
                epoch: Epoch(1),
                position: transaction.position,
            };
            self.replica
                .merge_transaction(cursor, live, accepted, changes.collect())
                .unwrap();
        }
    }
}
