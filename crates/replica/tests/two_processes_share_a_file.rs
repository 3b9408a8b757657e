//! Two engines on one file, as two processes have it: neither trusts what it remembers of the file.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod common;

use anabranch_crdt::TableId;
use anabranch_protocol::{Seq, SubscriptionSet};
use anabranch_replica::{Event, Origin, Replica};
use common::{Clock, KEYED, NUMBERED, Site, change, column, cursor, delta, options, schema, shape};

#[test]
fn what_one_writes_the_other_does_not_evict() {
    let mut first = Site::new(1);
    let id = first.replica.subscribe(&shape("numbered")).unwrap();
    first.replica.finish_snapshot(id, cursor(0)).unwrap();
    let mut second = Replica::open(&first.path, options(&Clock::new(), 2)).unwrap();
    assert_eq!(second.id(), first.replica.id());
    let live = SubscriptionSet::only(id);
    // The second now knows that nothing waits; then the first writes.
    second
        .merge_transaction(cursor(1), live, Vec::new(), Vec::new())
        .unwrap();
    first.run("INSERT INTO numbered VALUES (1, 'mine')");
    let key = first.last().deltas[0].key.clone();
    let left = delta(NUMBERED, key, anabranch_crdt::RowState::new());
    let changes = vec![change(&left, SubscriptionSet::EMPTY)];
    second
        .merge_transaction(cursor(2), live, Vec::new(), changes)
        .unwrap();
    assert_eq!(first.count("numbered"), 1);
    // And accepted through the second, it waits no more for the first.
    second
        .merge_transaction(cursor(3), live, vec![Seq(1)], Vec::new())
        .unwrap();
    assert_eq!(first.count("numbered"), 0);
    assert!(first.pending().is_empty());
    assert_eq!(
        first.run("INSERT INTO numbered VALUES (2, 'next')"),
        Some(Seq(2))
    );
}

#[test]
fn a_schema_that_one_adopts_the_other_follows() {
    let mut first = Site::new(1);
    let mut second = Replica::open(&first.path, options(&Clock::new(), 2)).unwrap();
    let mut wider = schema();
    wider.version = 2;
    let extra = column(
        3,
        "extra",
        anabranch_shape::schema::ColumnType::Integer,
        true,
    );
    wider.tables[3].columns.push(extra);
    second.adopt_schema(wider).unwrap();
    first.run("INSERT INTO numbered VALUES (1, 'x', 5)");
    assert_eq!(common::written(&first.last().deltas[0]), [2, 3]);
    assert_eq!(first.replica.schema().version, 2);
}

#[test]
fn what_another_engine_has_changed_is_told_by_table() {
    let mut first = Site::new(1);
    first.keep_everything();
    let mut second = Replica::open(&first.path, options(&Clock::new(), 2)).unwrap();
    let numbered = second.observe_table("numbered").unwrap();
    let key = anabranch_crdt::RowKey(vec![anabranch_crdt::Value::Integer(7)]);
    let row = second.observe_row("numbered", key).unwrap();
    let elsewhere = |tables: &[TableId]| Event::Tables {
        origin: Origin::Elsewhere,
        tables: tables.to_vec(),
    };
    // Sealed by the other engine, and merged by it.
    first.run(
        "INSERT INTO numbered VALUES (1, 'x'); INSERT INTO keyed(tenant, number) VALUES ('a', 1)",
    );
    second.seal_foreign_writes().unwrap();
    assert_eq!(second.take_events(), [elsewhere(&[KEYED, NUMBERED])]);
    assert_eq!(numbered.take(), [elsewhere(&[NUMBERED])]);
    assert_eq!(row.take(), [elsewhere(&[NUMBERED])]);
    second.seal_foreign_writes().unwrap();
    assert!(second.take_events().is_empty());
    let mut author = Site::new(9);
    author.run("INSERT INTO numbered VALUES (5, 'theirs')");
    first.hear(&author.pending());
    // Noticed by an own write too, before it; and of one's own writes nothing is told twice.
    second
        .transaction(|tx| tx.execute("INSERT INTO numbered VALUES (2, 'mine')", []))
        .unwrap();
    let told = second.take_events();
    assert_eq!(told[0], elsewhere(&[NUMBERED]));
    assert_eq!(told.len(), 3, "{told:?}");
    second.seal_foreign_writes().unwrap();
    assert!(second.take_events().is_empty());
    first.replica.take_events();
    first.replica.seal_foreign_writes().unwrap();
    assert_eq!(first.replica.take_events(), [elsewhere(&[NUMBERED])]);
}

#[test]
fn a_write_that_was_accepted_before_anybody_looked_is_told_all_the_same() {
    let mut first = Site::new(1);
    let id = first.keep_everything();
    let all = SubscriptionSet::only(id);
    let mut second = Replica::open(&first.path, options(&Clock::new(), 2)).unwrap();
    for (row, position) in (1..).zip(1..4) {
        // The count of the change lies beside the transaction, which leaves.
        first.run(&format!("INSERT INTO numbered VALUES ({row}, 'x')"));
        let sealed = first.last();
        let changes = vec![change(&sealed.deltas[0], all)];
        first
            .replica
            .merge_transaction(cursor(position), all, vec![sealed.seq], changes)
            .unwrap();
        assert!(first.pending().is_empty());
        second.seal_foreign_writes().unwrap();
        let elsewhere = Event::Tables {
            origin: Origin::Elsewhere,
            tables: vec![NUMBERED],
        };
        assert_eq!(second.take_events(), [elsewhere]);
    }
}

#[test]
fn what_another_engine_appends_is_pending_here_too() {
    let mut first = Site::new(1);
    let id = first.keep_everything();
    let all = SubscriptionSet::only(id);
    let mut second = Replica::open(&first.path, options(&Clock::new(), 2)).unwrap();
    let mut author = Site::new(9);
    for (row, position) in (1..).zip(1..4) {
        // The second has looked at the outbox before, and reads only what is new in it.
        first.run(&format!("INSERT INTO numbered VALUES ({row}, 'mine')"));
        author.clock.set(1);
        author.run(&format!("INSERT INTO numbered VALUES ({row}, 'older')"));
        let older = author.last();
        let changes = vec![change(&older.deltas[0], all)];
        second
            .merge_transaction(cursor(position), all, Vec::new(), changes)
            .unwrap();
        let notes = first.text("SELECT group_concat(DISTINCT note) FROM numbered");
        assert_eq!(notes.as_deref(), Some("mine"), "at row {row}");
    }
}
