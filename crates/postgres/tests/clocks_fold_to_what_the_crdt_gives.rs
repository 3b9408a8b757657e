//! SQL statements and merges in any sequence leave a row's clock exactly as if the CRDT itself had
//! made every SQL write, as the server, at the clock reading that the trigger gave it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use anabranch_crdt::{ColumnId, Hlc, ReplicaId, RowState, Stamp, Value};
use anabranch_protocol::RejectCode;
use anabranch_store::{MergeOutcome, Store as _};
use common::{Fixture, delta, key, rejection, removal, stamp, text, upload, write};
use proptest::{
    prelude::{Just, Strategy, any, prop_oneof},
    strategy::ValueTree as _,
    test_runner::TestRunner,
};

const DDL: &str = "
    create table t (id int primary key, a int, b text, c text check (c <> 'no'));
    insert into t values (1, 1, 'from', 'before');";

#[derive(Clone, Debug)]
enum Step {
    Insert(i32),
    Update {
        a: Option<i32>,
        b: Option<i32>,
    },
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
    /// A replica deletes what it has seen.
    MergeDelete,
    /// A refused one, and then something else.
    Refused,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => any::<i32>().prop_map(Step::Insert),
        3 => (any::<Option<i32>>(), any::<Option<i32>>()).prop_map(|(a, b)| Step::Update { a, b }),
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
                .run(&format!("insert into t values (1, {value}, 'i{value}')"))
                .await;
            let cells = [
                (2, integer(*value)),
                (3, text(&format!("i{value}"))),
                (4, Value::Null),
            ];
            expected.server_write(newest(fixture).await, &cells);
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
        Step::Rekey if expected.present() => {
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
            expected.server_write(newest(fixture).await, &cells);
        }
        Step::Merge { .. } | Step::MergeDelete | Step::Refused => {
            merge(fixture, expected, step, &table).await;
        }
        Step::Insert(_) | Step::Update { .. } | Step::Rekey => {}
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

async fn check(fixture: &Fixture, expected: &Expected, done: &[Step]) {
    let table = fixture.table("t").await;
    // The whole state, also of a row that is gone, as an answer to a transaction that is refused.
    let all = write(
        stamp(5, 1),
        &[(2, integer(0)), (3, text("")), (4, text("no"))],
    );
    let mut probe = upload(5, 1, stamp(5, 1), vec![delta(&table, key(1), all)]);
    probe.transaction.deltas[0].key = key(1);
    let mut forged = probe.clone();
    forged.hash = [1; 32];
    probe.transaction.deltas.clear();
    fixture.store.merge(vec![probe]).await.unwrap();
    let outcomes = fixture.merge(vec![forged]).await;
    let held = &rejection(&outcomes[0]).rows[0].state;
    assert_eq!(*held, expected.state, "after {done:?}");
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
    let fixture = Fixture::new(DDL).await;
    let mut runner = TestRunner::deterministic();
    for _ in 0..60 {
        let steps = proptest::collection::vec(step(), 1..12)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        fixture
            .run(
                "set session_replication_role = replica; delete from t;
                     insert into t values (1, 1, 'from', 'before');
                     delete from anabranch.clocks; delete from anabranch.tombstones;
                     delete from anabranch.marks; set session_replication_role = default",
            )
            .await;
        let cells = [(2, integer(1)), (3, text("from")), (4, text("before"))];
        let mut expected = Expected {
            state: write(Stamp::GENESIS, &cells),
            seq: 0,
        };
        for (number, step) in steps.iter().enumerate() {
            take(&fixture, &mut expected, step).await;
            check(&fixture, &expected, &steps[..=number]).await;
        }
    }
}
