//! A schema changes while local writes wait: nothing is dropped, nobody waits, and what no longer
//! fits is refused by the store, kept, and can be amended and sent again.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use anabranch_crdt::{ColumnId, Delta, Hlc, Millis, ReplicaId, RowKey, RowState, Stamp, Value};
use anabranch_protocol::{RejectCode, Seq, SubscriptionId, SubscriptionSet};
use anabranch_replica::TransactionState;
use anabranch_shape::schema::{ColumnType, Schema};
use common::{KEYED, NUMBERED, START, Site, TITLE, change, column, cursor, delta, schema, written};

const EXTRA: ColumnId = ColumnId(9);

/// The schema in which numbered rows have one column more.
fn wider() -> Schema {
    let mut wider = schema();
    wider.version = 2;
    let extra = column(EXTRA.0, "extra", ColumnType::Integer, true);
    wider.tables[3].columns.push(extra);
    wider
}

/// The schema in which the note of numbered rows is an integer.
fn retyped() -> Schema {
    let mut retyped = schema();
    retyped.version = 2;
    retyped.tables[3].columns[1] = column(2, "note", ColumnType::Integer, true);
    retyped
}

fn number(id: i64) -> RowKey {
    RowKey(vec![Value::Integer(id)])
}

/// What the store holds of a numbered row, written by another replica.
fn stored(id: i64, cells: &[(ColumnId, Value)]) -> Delta {
    let at = Hlc::new(Millis(START - 1_000), 0).unwrap();
    let stamp = Stamp::new(at, ReplicaId([9; 16]));
    let mut state = RowState::live(stamp);
    for (column, value) in cells {
        state.set(*column, stamp, value.clone());
    }
    delta(NUMBERED, number(id), state)
}

/// Shows a snapshot of these rows.
fn snapshot(site: &mut Site, id: SubscriptionId, rows: Vec<Delta>) {
    site.replica.stage_snapshot(id, rows, 1).unwrap();
    site.replica.finish_snapshot(id, cursor(1)).unwrap();
}

fn note(site: &Site, id: i64) -> Value {
    let sql = format!("SELECT note FROM numbered WHERE id = {id}");
    let conn = site.replica.connection();
    let value: rusqlite::types::Value = conn.query_row(&sql, [], |row| row.get(0)).unwrap();
    anabranch_replica::tables::values::from_sql((&value).into())
}

#[test]
fn what_is_added_leaves_waiting_writes_as_they_are() {
    let mut site = Site::new(1);
    let id = site.keep_everything();
    site.run("INSERT INTO numbered VALUES (1, 'waits')");
    let before = site.pending();
    site.replica.adopt_schema(wider()).unwrap();
    assert_eq!(site.pending(), before);
    site.run("UPDATE numbered SET extra = 5");
    assert_eq!(written(&site.last().deltas[0]), [EXTRA.0]);
    let theirs = stored(
        1,
        &[(TITLE, Value::text("loses")), (EXTRA, Value::Integer(1))],
    );
    snapshot(&mut site, id, vec![theirs]);
    assert_eq!(
        site.text("SELECT note || extra FROM numbered").as_deref(),
        Some("waits5")
    );
}

#[test]
fn columns_not_known_yet_are_kept_until_their_schema_comes() {
    let mut site = Site::new(1);
    let id = site.replica.subscribe(&common::shape("numbered")).unwrap();
    snapshot(&mut site, id, Vec::new());
    let live = SubscriptionSet::only(id);
    let told = [
        stored(
            1,
            &[(TITLE, Value::text("one")), (EXTRA, Value::Integer(11))],
        ),
        stored(
            2,
            &[(TITLE, Value::text("two")), (EXTRA, Value::Integer(22))],
        ),
    ];
    let changes = told.iter().map(|row| change(row, live)).collect();
    site.replica
        .merge_transaction(cursor(2), live, Vec::new(), changes)
        .unwrap();
    assert_eq!(site.count("anabranch_unknown"), 2);
    // A row that leaves takes along what was kept beside it.
    let left = change(
        &delta(NUMBERED, number(2), RowState::new()),
        SubscriptionSet::EMPTY,
    );
    site.replica
        .merge_transaction(cursor(3), live, Vec::new(), vec![left])
        .unwrap();
    assert_eq!(site.count("anabranch_unknown"), 1);

    site.replica.adopt_schema(wider()).unwrap();
    assert_eq!(site.count("anabranch_unknown"), 0);
    let state = site
        .replica
        .row_state("numbered", &number(1))
        .unwrap()
        .unwrap();
    assert_eq!(state, told[0].state);
    assert_eq!(
        site.text("SELECT note || extra FROM numbered").as_deref(),
        Some("one11")
    );
}

#[test]
fn an_outbox_of_a_newer_replica_passes_through_an_older_one_whole() {
    let mut newer = Site::new(1);
    newer.replica.adopt_schema(wider()).unwrap();
    newer.run("INSERT INTO numbered VALUES (1, 'one', 11)");
    let exported = newer.replica.export_outbox().unwrap();

    let mut older = Site::new(2);
    assert_eq!(older.replica.import_outbox(&exported).unwrap(), 1);
    assert_eq!(
        older.text("SELECT note FROM numbered").as_deref(),
        Some("one")
    );
    let forwarded = older.last().deltas.remove(0);
    assert_eq!(forwarded.state.value(EXTRA), Some(&Value::Integer(11)));
    older.replica.adopt_schema(wider()).unwrap();
    assert_eq!(
        older.text("SELECT note || extra FROM numbered").as_deref(),
        Some("one11")
    );
    let held = older
        .replica
        .row_state("numbered", &number(1))
        .unwrap()
        .unwrap();
    assert_eq!(held, forwarded.state);
}

#[test]
fn a_write_to_a_dropped_column_is_refused_alone_and_kept() {
    let mut site = Site::new(1);
    site.keep_everything();
    site.run("INSERT INTO keyed VALUES ('a', 1, 'before', NULL)");
    let dropped = site
        .run("INSERT INTO keyed VALUES ('b', 2, 'both', '1.50')")
        .unwrap();
    site.run("UPDATE keyed SET note = 'after' WHERE tenant = 'a'");
    let before = site.pending();
    let mut narrower = schema();
    narrower.version = 2;
    narrower.tables[2].columns.pop();
    site.replica.adopt_schema(narrower).unwrap();
    assert_eq!(
        site.pending(),
        before,
        "all of it goes to the store, in its order"
    );

    // As the store answers them: the first and the last are merged.
    site.replica.accepted(Seq(1)).unwrap();
    let reason = "table keyed has no column number 4 (any more)".to_owned();
    site.replica
        .rejected(
            dropped,
            RejectCode::UnknownSchema,
            reason.clone(),
            Vec::new(),
        )
        .unwrap();
    site.replica.accepted(Seq(3)).unwrap();
    assert_eq!(
        site.text("SELECT note FROM keyed").as_deref(),
        Some("after")
    );
    let status = site.replica.status().unwrap();
    assert_eq!((status.pending, status.rejected), (0, 1));
    let refused = site.replica.rejected_list().unwrap().remove(0);
    assert_eq!(
        (refused.code, &refused.reason),
        (RejectCode::UnknownSchema, &reason)
    );
    let kept = &refused.transaction.deltas[0].state;
    assert_eq!(
        kept.value(ColumnId(4)),
        Some(&Value::text("1.50")),
        "it is whole"
    );

    // Sent again, what still has a place is written, and the rest is left out.
    let again = site
        .replica
        .resend_rejected(dropped, |_| {})
        .unwrap()
        .unwrap();
    let [row] = &site.last().deltas[..] else {
        panic!("one row")
    };
    assert_eq!((row.table, written(row)), (KEYED, vec![3]));
    assert_eq!(
        site.text("SELECT note FROM keyed WHERE tenant = 'b'")
            .as_deref(),
        Some("both")
    );
    assert_eq!(site.replica.status().unwrap().rejected, 0);
    assert_eq!(
        site.replica.transaction_state(dropped).unwrap(),
        TransactionState::Unknown
    );
    assert_eq!(
        site.replica.transaction_state(again).unwrap(),
        TransactionState::Pending
    );
}

#[test]
fn what_was_written_to_a_dropped_table_stays_readable() {
    let mut site = Site::new(1);
    site.keep_everything();
    let dropped = site.run("INSERT INTO numbered VALUES (1, 'mine')").unwrap();
    site.run("INSERT INTO keyed VALUES ('a', 1, 'x', NULL)");
    let mut fewer = schema();
    fewer.version = 2;
    fewer.tables.pop();
    site.replica.adopt_schema(fewer).unwrap();
    assert_eq!(site.pending().len(), 2);
    let reason = "table number 4 is not replicated (any more)".to_owned();
    site.replica
        .rejected(dropped, RejectCode::UnknownSchema, reason, Vec::new())
        .unwrap();
    assert_eq!(
        site.text("SELECT note FROM numbered").as_deref(),
        Some("mine")
    );
    assert_eq!(site.replica.rejected_list().unwrap().len(), 1);
    // Nothing of it can be written any more, so it stays where it is until discarded.
    assert_eq!(site.replica.resend_rejected(dropped, |_| {}).unwrap(), None);
    assert!(site.replica.discard_rejected(dropped).unwrap());
    assert_eq!(site.pending().len(), 1);
}

#[test]
fn a_column_of_another_type_takes_what_the_store_made_of_it() {
    let mut site = Site::new(1);
    let id = site.keep_everything();
    // By value the text would win over the number: the store's own rewriting has no stamp.
    let rows = [(1, "10"), (2, "ten")].map(|(id, text)| stored(id, &[(TITLE, Value::text(text))]));
    snapshot(&mut site, id, rows.to_vec());
    let text = site
        .run("UPDATE numbered SET note = 'waits' WHERE id = 1")
        .unwrap();
    let fits = site.run("INSERT INTO numbered VALUES (3, '30')").unwrap();
    site.replica.adopt_schema(retyped()).unwrap();
    assert_eq!(
        note(&site, 3),
        Value::Integer(30),
        "shown until the store tells"
    );
    assert_eq!(site.pending().len(), 2);

    let store = |id, note| stored(id, &[(TITLE, Value::Integer(note))]);
    snapshot(&mut site, id, vec![store(1, 10), store(2, 2)]);
    assert_eq!(note(&site, 2), Value::Integer(2));
    // The texts fit no longer; the store refuses them and says what it holds.
    for (seq, row) in [
        (text, store(1, 10)),
        (fits, delta(NUMBERED, number(3), RowState::new())),
    ] {
        let reason = "column note of table numbered: not an integer".to_owned();
        site.replica
            .rejected(seq, RejectCode::InvalidValue, reason, vec![row])
            .unwrap();
    }
    assert_eq!(note(&site, 1), Value::Integer(10));
    assert_eq!(site.count("numbered"), 2);

    let amend = |row: &mut Delta| {
        let stamp = row.state.clock().register(TITLE).unwrap();
        row.state.set(TITLE, stamp, Value::Integer(30));
    };
    assert!(site.replica.resend_rejected(fits, amend).unwrap().is_some());
    assert_eq!(note(&site, 3), Value::Integer(30));
    site.run("UPDATE numbered SET note = note + 1");
    let values = site
        .last()
        .deltas
        .into_iter()
        .map(|row| row.state.value(TITLE).cloned());
    let expected = [11, 3, 31].map(|value| Some(Value::Integer(value)));
    assert_eq!(values.collect::<Vec<_>>(), expected);
}

#[test]
fn waiting_writes_that_fit_a_new_type_stay_on_top() {
    let mut site = Site::new(1);
    let id = site.keep_everything();
    snapshot(
        &mut site,
        id,
        vec![stored(1, &[(TITLE, Value::text("old"))])],
    );
    site.run("UPDATE numbered SET note = 'mine' WHERE id = 1");
    let mut changed = schema();
    changed.version = 2;
    changed.tables[3].columns[1].declared_type = "varchar(20)".to_owned();
    site.replica.adopt_schema(changed).unwrap();
    snapshot(
        &mut site,
        id,
        vec![stored(1, &[(TITLE, Value::text("rewritten"))])],
    );
    assert_eq!(note(&site, 1), Value::text("mine"));
    // Refused, it gives way to what the store made of the old value, not to that itself.
    let row = stored(1, &[(TITLE, Value::text("rewritten"))]);
    site.replica
        .rejected(Seq(1), RejectCode::Constraint, "no".to_owned(), vec![row])
        .unwrap();
    assert_eq!(note(&site, 1), Value::text("rewritten"));
}

#[test]
fn a_key_of_another_type_needs_a_new_file_and_changes_nothing() {
    let mut site = Site::new(1);
    site.run("INSERT INTO numbered VALUES (1, 'waits')");
    let mut changed = schema();
    changed.version = 2;
    changed.tables[3].columns[0] = column(1, "id", ColumnType::Text, false);
    let refused = site.replica.adopt_schema(changed).unwrap_err();
    assert!(
        refused.to_string().contains("numbered.id, which is a key"),
        "{refused}"
    );
    assert_eq!(site.pending().len(), 1);
    site.run("UPDATE numbered SET note = 'still captured'");
    assert_eq!(site.pending().len(), 2);
}
