//! SQL statements and merges in any sequence leave a row's clock exactly as if the CRDT itself had
//! made every SQL write, as the server, at the clock reading that the trigger gave it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use std::collections::BTreeSet;

use anabranch_crdt::{
    ColumnId, ColumnState, Counter, ElementSet, Hlc, MergeKind, ReplicaId, RowState, Stamp, Value,
};
use anabranch_protocol::RejectCode;
use anabranch_shape::rules::{Rules, TableRules};
use anabranch_store::{MergeOutcome, Store as _};
use common::{Fixture, delta, key, rejection, removal, stamp, text, upload, write};
use proptest::{
    prelude::{Just, Strategy, any, prop_oneof},
    strategy::ValueTree as _,
    test_runner::TestRunner,
};

const DDL: &str = "
    create table t (id int primary key, a int, b text, c text check (c <> 'no'),
        n int not null default 0, tags jsonb not null default '[]');
    insert into t values (1, 1, 'from', 'before', 1, '[\"from\"]');";
const N: ColumnId = ColumnId(5);
const TAGS: ColumnId = ColumnId(6);

#[derive(Clone, Debug)]
enum Step {
    Insert(i32),
    Update {
        a: Option<i32>,
        b: Option<i32>,
    },
    /// SQL adds to the counter, or writes the set.
    Count(i8),
    Tags(BTreeSet<u8>),
    Nothing,
    Delete,
    Truncate,
    Rekey,
    /// A replica writes, at a stamp of the past or of the future.
    Merge {
        replica: u8,
        future: bool,
        column: u16,
    },
    /// A replica adds to the counter and writes the set, having seen everything or nothing.
    MergeOther {
        replica: u8,
        amount: i8,
        tags: BTreeSet<u8>,
        seen: bool,
    },
    /// A replica deletes what it has seen.
    MergeDelete,
    /// A refused one, and then something else.
    Refused,
}

fn tags() -> impl Strategy<Value = BTreeSet<u8>> {
    proptest::collection::btree_set(0..4_u8, 0..4)
}

/// As a set is written in SQL, in no order of ours.
fn array(tags: &BTreeSet<u8>) -> Value {
    let tags: Vec<u8> = tags.iter().rev().copied().collect();
    text(&format!("{tags:?}"))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => any::<i32>().prop_map(Step::Insert),
        3 => (any::<Option<i32>>(), any::<Option<i32>>()).prop_map(|(a, b)| Step::Update { a, b }),
        2 => (-9..9_i8).prop_map(Step::Count),
        3 => tags().prop_map(Step::Tags),
        3 => (1..4_u8, -9..9_i8, tags(), any::<bool>()).prop_map(|(replica, amount, tags, seen)| {
            Step::MergeOther { replica, amount, tags, seen }
        }),
        1 => Just(Step::Nothing),
        2 => Just(Step::Delete),
        1 => Just(Step::Truncate),
        1 => Just(Step::Rekey),
        4 => (1..4_u8, any::<bool>(), 2..5_u16)
            .prop_map(|(replica, future, column)| Step::Merge { replica, future, column }),
        2 => Just(Step::MergeDelete),
        1 => Just(Step::Refused),
    ]
}

/// The row by the rules of the CRDT alone.
struct Expected {
    state: RowState,
    seq: u64,
    /// What the store last told of the row: SQL that writes a set adds what nobody packed anew, so the
    /// stamps of its elements may be newer than here.
    told: RowState,
}

impl Expected {
    fn present(&self) -> bool {
        self.state.existence().is_present()
    }

    fn server_write(&mut self, hlc: Hlc, cells: &[(u16, Value)]) {
        let _ = self
            .state
            .merge(&write(Stamp::new(hlc, ReplicaId::SERVER), cells));
    }

    fn count(&self) -> i64 {
        match self.state.value(N) {
            Some(Value::Integer(count)) => *count,
            _ => 0,
        }
    }

    /// SQL has written these columns that are no registers.
    fn server_other(&mut self, hlc: Hlc, count: Option<i64>, tags: Option<&Value>) {
        let stamp = Stamp::new(hlc, ReplicaId::SERVER);
        if let Some(count) = count {
            let mut counter = match self.state.clock().column(N) {
                Some(ColumnState::Counter(counter)) => counter.clone(),
                _ => Counter::new(),
            };
            counter.imply(stamp, count);
            self.state.set_column(N, ColumnState::Counter(counter));
        }
        if let Some(tags) = tags {
            let held = self.state.clock().column(TAGS);
            let mut delta = RowState::live(stamp);
            delta.set_column(TAGS, MergeKind::Set.write(held, tags, stamp).unwrap());
            let _ = self.state.merge(&delta);
        }
        let _ = self.state.merge(&RowState::live(stamp));
    }

    /// What a replica adds and writes that has seen this.
    fn other_delta(&self, stamp: Stamp, amount: i8, tags: &BTreeSet<u8>, seen: bool) -> RowState {
        let mut delta = RowState::live(stamp);
        let held = self.told.clock().column(TAGS).filter(|_| seen);
        let counter = Counter::new().write(i64::from(amount), stamp);
        delta.set_column(N, ColumnState::Counter(counter));
        delta.set_column(
            TAGS,
            MergeKind::Set.write(held, &array(tags), stamp).unwrap(),
        );
        delta
    }

    fn delete(&mut self) {
        let removed = removal(self.state.existence());
        let _ = self.state.merge(&removed);
    }
}

fn integer(value: i32) -> Value {
    Value::Integer(i64::from(value))
}

async fn newest(fixture: &Fixture) -> Hlc {
    let newest = fixture
        .one("select newest::text from anabranch.clocks where key = '1'")
        .await;
    Hlc::from_i64(newest.unwrap().parse().unwrap()).unwrap()
}

async fn take(fixture: &Fixture, expected: &mut Expected, step: &Step) {
    let table = fixture.table("t").await;
    match step {
        Step::Insert(value) if !expected.present() => {
            fixture
                .run(&format!(
                    "insert into t values (1, {value}, 'i{value}', null, 3, '[1, 9]')"
                ))
                .await;
            let cells = [
                (2, integer(*value)),
                (3, text(&format!("i{value}"))),
                (4, Value::Null),
            ];
            let hlc = newest(fixture).await;
            expected.server_write(hlc, &cells);
            expected.server_other(hlc, Some(3), Some(&text("[1, 9]")));
        }
        Step::Count(_) | Step::Tags(_) | Step::Rekey if expected.present() => {
            take_other(fixture, expected, step).await;
        }
        Step::Update { a, b } if expected.present() => {
            let (mut cells, mut sets) = (Vec::new(), vec!["c = c".to_owned()]);
            if let Some(value) = a {
                sets.push(format!("a = {value}"));
                cells.push((2, integer(*value)));
            }
            if let Some(value) = b {
                sets.push(format!("b = 'u{value}'"));
                cells.push((3, text(&format!("u{value}"))));
            }
            // What is set to what it was is no write.
            cells.retain(|(column, value)| expected.state.value(ColumnId(*column)) != Some(value));
            fixture
                .run(&format!("update t set {}", sets.join(", ")))
                .await;
            if !cells.is_empty() {
                expected.server_write(newest(fixture).await, &cells);
            }
        }
        Step::Nothing => fixture.run("update t set a = a").await,
        Step::Delete => {
            fixture.run("delete from t").await;
            expected.delete();
        }
        Step::Truncate => {
            fixture.run("truncate t").await;
            expected.delete();
        }
        Step::Merge { .. } | Step::MergeOther { .. } | Step::MergeDelete | Step::Refused => {
            merge(fixture, expected, step, &table).await;
        }
        Step::Insert(_) | Step::Update { .. } | Step::Rekey | Step::Count(_) | Step::Tags(_) => {}
    }
}

async fn take_other(fixture: &Fixture, expected: &mut Expected, step: &Step) {
    match step {
        Step::Count(amount) => {
            fixture.run(&format!("update t set n = n + {amount}")).await;
            if *amount != 0 {
                let count = expected.count() + i64::from(*amount);
                expected.server_other(newest(fixture).await, Some(count), None);
            }
        }
        Step::Tags(tags) => {
            let Value::Text(array) = array(tags) else {
                unreachable!()
            };
            let before = fixture.one("select tags::text from t").await;
            fixture.run(&format!("update t set tags = '{array}'")).await;
            if before != Some(array.clone()) {
                expected.server_other(newest(fixture).await, None, Some(&text(&array)));
            }
        }
        Step::Rekey => {
            fixture
                .run("update t set id = 2; update t set id = 1")
                .await;
            expected.delete();
            let cells = [2, 3, 4].map(|column| {
                (
                    column,
                    expected
                        .state
                        .value(ColumnId(column))
                        .cloned()
                        .unwrap_or(Value::Null),
                )
            });
            let hlc = newest(fixture).await;
            expected.server_write(hlc, &cells);
            let (count, tags) = (expected.count(), expected.state.value(TAGS).cloned());
            expected.server_other(hlc, Some(count), tags.as_ref());
        }
        _ => {}
    }
}

async fn merge(
    fixture: &Fixture,
    expected: &mut Expected,
    step: &Step,
    table: &anabranch_shape::schema::Table,
) {
    expected.seq += 1;
    let (number, state) = match step {
        Step::Merge {
            replica,
            future,
            column,
        } => {
            let at = if *future {
                common::future_stamp(*replica, expected.seq)
            } else {
                stamp(*replica, 1000 + expected.seq)
            };
            let value = match column {
                2 => integer(7),
                _ => text(&format!("m{}", expected.seq)),
            };
            (*replica, write(at, &[(*column, value)]))
        }
        Step::MergeOther {
            replica,
            amount,
            tags,
            seen,
        } => {
            let at = common::future_stamp(*replica, expected.seq);
            (*replica, expected.other_delta(at, *amount, tags, *seen))
        }
        Step::Refused => (9, write(common::future_stamp(9, 0), &[(4, text("no"))])),
        _ => (8, removal(expected.state.existence())),
    };
    let sent = upload(
        number,
        expected.seq,
        stamp(number, 1),
        vec![delta(table, key(1), state.clone())],
    );
    let outcomes = fixture.merge(vec![sent]).await;
    if matches!(step, Step::Refused) {
        assert_eq!(rejection(&outcomes[0]).code, RejectCode::Constraint);
        return;
    }
    assert_eq!(outcomes, [MergeOutcome::Merged]);
    let _ = expected.state.merge(&state);
    if let Some(ColumnState::Counter(counter)) = expected.state.clock().column(N) {
        let mut counter = counter.clone();
        counter.settle();
        expected.state.set_column(N, ColumnState::Counter(counter));
    }
    // A row that comes into being without a column gets that column from the store.
    if expected.present() {
        let missing = |column: &u16| expected.state.value(ColumnId(*column)).is_none();
        let missing: Vec<u16> = [2, 3, 4].into_iter().filter(missing).collect();
        if !missing.is_empty() {
            let at = Stamp::new(newest(fixture).await, ReplicaId::SERVER);
            for column in missing {
                expected.state.set(ColumnId(column), at, Value::Null);
            }
        }
    }
}

async fn check(fixture: &Fixture, expected: &mut Expected, done: &[Step]) {
    let table = fixture.table("t").await;
    // The whole state, also of a row that is gone, as an answer to a transaction that is refused.
    let mut all = write(
        stamp(5, 1),
        &[(2, integer(0)), (3, text("")), (4, text("no"))],
    );
    all.set_column(N, ColumnState::Counter(Counter::new()));
    all.set_column(TAGS, ColumnState::Set(ElementSet::new()));
    let mut probe = upload(5, 1, stamp(5, 1), vec![delta(&table, key(1), all)]);
    probe.transaction.deltas[0].key = key(1);
    let mut forged = probe.clone();
    forged.hash = [1; 32];
    probe.transaction.deltas.clear();
    fixture.store.merge(vec![probe]).await.unwrap();
    let outcomes = fixture.merge(vec![forged]).await;
    let held = &rejection(&outcomes[0]).rows[0].state;
    let plain = |state: &RowState| state.project(|column| column != TAGS);
    assert_eq!(plain(held), plain(&expected.state), "after {done:?}");
    // A set may remember more of what is gone, but shows the same, and to whoever joins it in.
    let mut joined = expected.state.clone();
    let _ = joined.merge(held);
    let tags = expected.state.value(TAGS);
    assert_eq!(held.value(TAGS), tags, "after {done:?}: {held:?}");
    assert_eq!(joined.value(TAGS), tags, "after {done:?}");
    expected.told = held.clone();
    let there = fixture
        .one("select a || coalesce(b, '') from t where id = 1")
        .await;
    assert_eq!(
        there.is_some() || fixture.one("select '' from t").await.is_some(),
        expected.present()
    );
}

#[tokio::test]
async fn whatever_the_sequence() {
    let rules = TableRules::new()
        .column("n", MergeKind::Counter)
        .column("tags", MergeKind::Set);
    let fixture = Fixture::with_rules(DDL, &Rules::new().table("t", rules)).await;
    let mut runner = TestRunner::deterministic();
    for _ in 0..60 {
        let steps = proptest::collection::vec(step(), 1..12)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        fixture
            .run(
                "set session_replication_role = replica; delete from t;
                     insert into t values (1, 1, 'from', 'before', 1, '[\"from\"]');
                     delete from anabranch.clocks; delete from anabranch.tombstones;
                     delete from anabranch.marks; set session_replication_role = default",
            )
            .await;
        let cells = [(2, integer(1)), (3, text("from")), (4, text("before"))];
        let mut expected = Expected {
            state: write(Stamp::GENESIS, &cells),
            seq: 0,
            told: RowState::new(),
        };
        expected.server_other(Hlc::ZERO, Some(1), Some(&text("[\"from\"]")));
        expected.told = expected.state.clone();
        for (number, step) in steps.iter().enumerate() {
            take(&fixture, &mut expected, step).await;
            check(&fixture, &mut expected, &steps[..=number]).await;
        }
    }
}
