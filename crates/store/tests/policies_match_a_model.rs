//! Parents, children and grandchildren that replicas write and delete without knowing of each other:
//! whatever the foreign keys' policies, every replica ends as a naive model says, and no row refers to
//! one that is not there.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use anabranch_crdt::{Life, ReplicaId, RowKey, Stamp, TableId, Value};
use anabranch_protocol::LocalTransaction;
use anabranch_shape::{
    rules::{Rules, TableRules},
    schema::{DeletePolicy, ReferencePolicy},
};
use anabranch_store::MergeOutcome;
use common::{Site, key, peer::Peer};
use proptest::prelude::*;

/// A task's project, and so on, follows from its number, so that the model needs no values.
const TABLES: &str = "
    CREATE TABLE project (id INTEGER PRIMARY KEY, v INTEGER);
    CREATE TABLE task (
        id INTEGER PRIMARY KEY, project INTEGER REFERENCES project ON DELETE CASCADE, v INTEGER);
    CREATE TABLE step (
        id INTEGER PRIMARY KEY, task INTEGER REFERENCES task ON DELETE CASCADE, v INTEGER);
    CREATE TABLE mark (
        id INTEGER PRIMARY KEY, project INTEGER REFERENCES project ON DELETE CASCADE, v INTEGER);
    CREATE TABLE star (
        id INTEGER PRIMARY KEY, mark INTEGER REFERENCES mark ON DELETE CASCADE, v INTEGER);
    CREATE TABLE note (
        id INTEGER PRIMARY KEY, project INTEGER REFERENCES project ON DELETE SET NULL, v INTEGER);
    INSERT INTO project VALUES (0, 0), (1, 0);
    INSERT INTO task VALUES (0, 0, 0), (1, 1, 0);
";
const NAMES: [&str; 6] = ["project", "task", "step", "mark", "star", "note"];
/// Child, referring column, parent, and how many parents there are.
const REFERENCES: [(&str, &str, &str, i64); 5] = [
    ("task", "project", "project", 2),
    ("step", "task", "task", 3),
    ("mark", "project", "project", 2),
    ("star", "mark", "mark", 3),
    ("note", "project", "project", 2),
];

fn rules() -> Rules {
    let cascade = |column| TableRules::new().reference(column, ReferencePolicy::Cascade);
    let note = TableRules::new()
        .reference("project", ReferencePolicy::SetNull)
        .delete(DeletePolicy::WinsOverUpdate);
    Rules::new()
        .table("task", cascade("project"))
        .table("step", cascade("task"))
        .table("note", note)
}

/// Each row's additions that stand, and nothing else.
#[derive(Default)]
struct Model {
    additions: BTreeMap<(TableId, RowKey), BTreeSet<Stamp>>,
}

impl Model {
    fn is_there(&self, table: TableId, key: &RowKey) -> bool {
        let additions = self.additions.get(&(table, key.clone()));
        additions.is_some_and(|additions| !additions.is_empty())
    }

    /// The store takes a transaction in: what it adds stands, what it removes of what it had seen goes,
    /// children that come bring their parents back or go with them, as declared.
    fn take(&mut self, transaction: &LocalTransaction, store: &mut Site) {
        let was_there: Vec<bool> = (transaction.deltas.iter())
            .map(|delta| self.is_there(delta.table, &delta.key))
            .collect();
        for delta in &transaction.deltas {
            let row = (delta.table, delta.key.clone());
            let additions = self.additions.entry(row).or_default();
            for entry in delta.state.existence().entries() {
                match entry.life {
                    Life::Live => {
                        additions.insert(entry.stamp);
                    }
                    Life::Removed => additions.retain(|held| {
                        held.replica != entry.stamp.replica || held.hlc > entry.stamp.hlc
                    }),
                }
            }
        }
        for child in ["star", "mark"] {
            let child = store.table(child);
            for (delta, was_there) in transaction.deltas.iter().zip(&was_there) {
                if delta.table == child && !was_there && self.is_there(child, &delta.key) {
                    self.bring_parents_back(child, &delta.key, store);
                }
            }
        }
        for (child, _, parent, parents) in &REFERENCES[..4] {
            let (child, parent) = (store.table(child), store.table(parent));
            let rows = self.additions.keys().filter(|(table, _)| *table == child);
            let rows: Vec<(TableId, RowKey)> = rows.cloned().collect();
            for row in rows {
                if !self.is_there(parent, &key(number(&row.1) % parents)) {
                    self.additions.remove(&row);
                }
            }
        }
    }

    /// What a row refers to, and so on, is there again, by additions of the store.
    fn bring_parents_back(&mut self, child: TableId, row: &RowKey, store: &mut Site) {
        let mut at = (child, number(row));
        loop {
            let up = REFERENCES
                .iter()
                .find(|(name, ..)| store.table(name) == at.0);
            let Some((_, _, name, parents)) = up else {
                return;
            };
            at = (store.table(name), at.1 % parents);
            let row = key(at.1);
            if !self.is_there(at.0, &row) {
                let addition = addition_of_the_store(store, name, &row);
                let additions = self.additions.entry((at.0, row)).or_default();
                additions.insert(addition);
            }
        }
    }

    fn rows(&self, table: TableId) -> Vec<RowKey> {
        let rows = self.additions.iter();
        let rows = rows.filter(|((id, _), additions)| *id == table && !additions.is_empty());
        rows.map(|((_, key), _)| key.clone()).collect()
    }
}

fn number(key: &RowKey) -> i64 {
    match key.0.first() {
        Some(Value::Integer(number)) => *number,
        _ => panic!("{key:?}"),
    }
}

/// The stamp under which the store added a row itself. That is the one thing which the model asks the store.
fn addition_of_the_store(store: &mut Site, name: &str, key: &RowKey) -> Stamp {
    let rows = store.rows(name);
    let row = rows.iter().find(|(held, _)| held == key);
    let entries = row
        .into_iter()
        .flat_map(|(_, row)| row.existence().entries());
    let mut stamps = entries.map(|entry| entry.stamp);
    let own = stamps.find(|stamp| stamp.replica == ReplicaId::SERVER);
    own.unwrap_or(Stamp::GENESIS)
}

#[derive(Clone, Debug)]
enum Step {
    Sql(usize, String),
    Push(usize),
    Listen(usize),
}

fn sql() -> impl Strategy<Value = String> {
    let written = (0..6_usize, 0..4_i64, 0..9_u8).prop_map(|(table, id, v)| {
        let name = NAMES[table];
        let reference = REFERENCES.iter().find(|(child, ..)| *child == name);
        match reference {
            None => format!(
                "INSERT INTO project VALUES ({}, {v}) ON CONFLICT DO UPDATE SET v = {v}",
                id % 2
            ),
            Some((child, _, _, parents)) => format!(
                "INSERT INTO {child} VALUES ({id}, {}, {v}) ON CONFLICT DO UPDATE SET v = {v}",
                id % parents
            ),
        }
    });
    let updated = (0..6_usize, 0..4_i64, 0..9_u8)
        .prop_map(|(table, id, v)| format!("UPDATE {} SET v = {v} WHERE id = {id}", NAMES[table]));
    let deleted = (0..6_usize, 0..4_i64)
        .prop_map(|(table, id)| format!("DELETE FROM {} WHERE id = {id}", NAMES[table]));
    prop_oneof![4 => written, 2 => updated, 3 => deleted]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..3_usize, sql()).prop_map(|(peer, sql)| Step::Sql(peer, sql)),
        2 => (0..3_usize).prop_map(Step::Push),
        1 => (0..3_usize).prop_map(Step::Listen),
    ]
}

fn push(peer: &mut Peer, store: &mut Site, model: &mut Model) {
    for (transaction, outcome) in peer.push(store) {
        match outcome {
            MergeOutcome::Merged => model.take(&transaction, store),
            MergeOutcome::Duplicate(_) => {}
            MergeOutcome::Rejected(why) => panic!("{why:?}: {transaction:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_and_deleted(steps in prop::collection::vec(step(), 1..50)) {
        let mut store = Site::with_rules(TABLES, &rules());
        let mut model = Model::default();
        for name in NAMES {
            let table = store.table(name);
            for (key, state) in store.rows(name) {
                let entries = state.existence().entries().iter();
                let additions = entries.map(|entry| entry.stamp).collect();
                model.additions.insert((table, key), additions);
            }
        }
        let mut peers = [1, 2, 3].map(|number| Peer::new(number, &mut store, &NAMES));
        for step in steps {
            match step {
                Step::Sql(peer, sql) => {
                    let _ = peers[peer].replica.transaction(|tx| tx.execute_batch(&sql));
                }
                Step::Push(peer) => push(&mut peers[peer], &mut store, &mut model),
                Step::Listen(peer) => peers[peer].listen(&mut store),
            }
        }
        for peer in &mut peers {
            push(peer, &mut store, &mut model);
        }
        for peer in &mut peers {
            peer.listen(&mut store);
        }
        for name in NAMES {
            let truth = store.rows(name);
            let keys: Vec<RowKey> = truth.iter().map(|(key, _)| key.clone()).collect();
            prop_assert_eq!(&keys, &model.rows(store.table(name)), "{}", name);
            for peer in &mut peers {
                prop_assert_eq!(&peer.replica.row_states(name).unwrap(), &truth, "{}", name);
            }
        }
        for (child, column, parent, _) in REFERENCES {
            let sql = format!(
                "SELECT count(*) FROM {child}
                 WHERE {column} IS NOT NULL AND {column} NOT IN (SELECT id FROM {parent})"
            );
            for peer in &peers {
                let conn = peer.replica.connection();
                let dangling: i64 = conn.query_row(&sql, [], |row| row.get(0)).unwrap();
                prop_assert_eq!(dangling, 0, "{}", child);
            }
        }
    }
}
