//! An application can ask what became of each transaction, is told which of its values gave way to
//! whose, and watches one table or row apart from everything else.
mod common;

use anabranch_crdt::{ColumnId, RowKey, Value};
use anabranch_protocol::{RejectCode, Seq};
use anabranch_replica::{
    ChangeKind, Event, OpenOptions, Origin, Replica, ReplicaError, TransactionError,
    TransactionState,
};
use common::{Clock, NUMBERED, Site, options, schema};

#[test]
fn each_transaction_has_a_state() {
    let mut site = Site::new(1);
    for id in 1..=3 {
        site.run(&format!("INSERT INTO numbered VALUES ({id}, 'x')"));
    }
    let state = |site: &Site, seq| site.replica.transaction_state(Seq(seq)).unwrap();
    assert_eq!(state(&site, 1), TransactionState::Pending);
    site.replica.accepted(Seq(1)).unwrap();
    assert_eq!(state(&site, 1), TransactionState::Accepted);
    site.replica
        .rejected(Seq(2), RejectCode::Constraint, "no".into(), vec![])
        .unwrap();
    assert_eq!(state(&site, 2), TransactionState::Rejected);
    assert!(site.replica.discard_rejected(Seq(2)).unwrap());
    assert!(!site.replica.discard_rejected(Seq(2)).unwrap());
    assert_eq!(state(&site, 2), TransactionState::Unknown);
    assert_eq!(state(&site, 4), TransactionState::Unknown);
    assert_eq!(state(&site, 0), TransactionState::Unknown);
}

#[test]
fn a_pending_value_that_gives_way_is_told_with_both_values() {
    let mut site = Site::new(1);
    site.keep_everything();
    site.run("INSERT INTO numbered VALUES (1, 'mine'), (2, 'alike')");
    let mine = site.last().stamp;
    let mut other = Site::new(2);
    other.clock.advance(1_000);
    other.run("INSERT INTO numbered VALUES (1, 'theirs'), (2, 'alike')");
    let theirs = other.last().stamp;
    site.replica.take_events();
    site.hear(&other.pending());
    let told = site.replica.take_events();
    let over = told.iter().find_map(|event| match event {
        Event::MergedOver { table, key, values } => Some((*table, key.clone(), values.clone())),
        _ => None,
    });
    let (table, key, values) = over.unwrap();
    assert_eq!((table, key), (NUMBERED, RowKey(vec![Value::Integer(1)])));
    assert_eq!(values.len(), 1);
    assert_eq!(values[0].column, ColumnId(2));
    assert_eq!(values[0].local, (Value::text("mine"), mine));
    assert_eq!(values[0].remote, (Value::text("theirs"), theirs));
    // What loses, and what is told again, is no news.
    site.hear(&other.pending());
    let again = site.replica.take_events();
    assert!(
        !again
            .iter()
            .any(|told| matches!(told, Event::MergedOver { .. }))
    );
}

#[test]
fn observers_hear_of_what_they_asked_for_only() {
    let mut site = Site::new(1);
    site.keep_everything();
    let one = RowKey(vec![Value::Integer(1)]);
    let table = site.replica.observe_table("numbered").unwrap();
    let row = site.replica.observe_row("numbered", one).unwrap();
    drop(site.replica.observe_table("keyed").unwrap());
    site.run("INSERT INTO numbered VALUES (1, 'x'), (2, 'y')");
    site.run("INSERT INTO keyed VALUES ('t', 1, 'n', NULL)");
    let mut other = Site::new(2);
    other.clock.advance(1_000);
    other.run("INSERT INTO numbered VALUES (1, 'theirs')");
    site.hear(&other.pending());
    let told = |events: Vec<Event>| -> Vec<(Origin, Vec<ChangeKind>)> {
        let part = |event| match event {
            Event::Rows { origin, changes } => {
                (origin, changes.iter().map(|change| change.kind).collect())
            }
            other => panic!("{other:?}"),
        };
        events.into_iter().map(part).collect()
    };
    let (inserted, updated) = (ChangeKind::Inserted, ChangeKind::Updated);
    let theirs = (Origin::Remote, vec![updated]);
    assert_eq!(
        told(table.take()),
        [(Origin::Local, vec![inserted, inserted]), theirs.clone()]
    );
    assert_eq!(told(row.take()), [(Origin::Local, vec![inserted]), theirs]);
    assert!(row.take().is_empty());
    assert!(!site.replica.take_events().is_empty(), "nothing was taken");
    assert!(matches!(
        site.replica.observe_table("nowhere"),
        Err(ReplicaError::NoTable(_))
    ));
}

#[test]
fn a_full_outbox_refuses_the_next_write_and_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let options = OpenOptions {
        outbox_transactions_max: 2,
        ..options(&Clock::new(), 1)
    };
    let mut replica = Replica::open(directory.path().join("r.db"), options).unwrap();
    replica.adopt_schema(schema()).unwrap();
    let mut write = |id: i64| {
        replica.transaction(|tx| tx.execute("INSERT INTO numbered VALUES (?1, 'x')", [id]))
    };
    write(1).unwrap();
    write(2).unwrap();
    let refused = write(3).unwrap_err();
    assert!(refused.to_string().contains("outbox_transactions_max"));
    assert!(matches!(
        refused,
        TransactionError::Replica(ReplicaError::OutboxFull { pending: 2 })
    ));
    replica.accepted(Seq(1)).unwrap();
    replica
        .transaction(|tx| tx.execute("INSERT INTO numbered VALUES (3, 'x')", []))
        .unwrap();
}
