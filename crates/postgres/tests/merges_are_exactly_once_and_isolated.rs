//! Replicas' transactions: merged once, refused alone, many in one commit, told with their origin.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use anabranch_crdt::{ColumnId, Existence, ReplicaId, RowKey, RowState, Stamp, Value};
use anabranch_protocol::{RejectCode, Seq};
use anabranch_shape::schema::Table;
use anabranch_store::{LogEvent, MergeOutcome, Store as _, Upload};
use common::{
    Fixture, delta, future_stamp, key, rejection, removal, replica, stamp, text, upload, write,
};

const DDL: &str = "
    create table lists (id int primary key, name text not null unique);
    create table items (id int primary key, list int references lists, title text,
                        price numeric(10,2) check (price >= 0), note text default 'none');
    insert into lists values (1, 'groceries');
    insert into items values (1, 1, 'milk', 1.5, 'n');";

#[tokio::test]
async fn a_resend_is_a_duplicate_and_other_content_is_refused() {
    let fixture = Fixture::new(DDL).await;
    let mut log = fixture.follow().await;
    let lists = fixture.table("lists").await;
    let made = || {
        upload(
            1,
            1,
            stamp(1, 5),
            vec![delta(
                &lists,
                key(7),
                write(stamp(1, 5), &[(2, text("mine"))]),
            )],
        )
    };
    assert_eq!(fixture.merge(vec![made()]).await, [MergeOutcome::Merged]);
    log.catch_up(&fixture.sql).await;
    let heard = log.heard();
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0].origins, [(replica(1), Seq(1))]);
    assert_eq!(heard[0].deltas, [made().transaction.deltas[0].clone()]);

    let outcomes = fixture.merge(vec![made(), made()]).await;
    for outcome in outcomes {
        let MergeOutcome::Duplicate(position) = outcome else {
            panic!("{outcome:?}")
        };
        while log.position < position {
            assert!(!matches!(log.next().await, LogEvent::Transaction(_)));
        }
    }
    let mut forged = made();
    forged.hash = [9; 32];
    let outcomes = fixture.merge(vec![forged]).await;
    assert_eq!(rejection(&outcomes[0]).code, RejectCode::Equivocation);
    assert_eq!(
        rejection(&outcomes[0]).rows[0].state,
        made().transaction.deltas[0].state
    );

    let second = upload(1, 2, stamp(1, 6), vec![]);
    assert_eq!(
        fixture.merge(vec![second.clone(), second]).await[0],
        MergeOutcome::Merged
    );
    assert_eq!(
        fixture
            .store
            .greet(replica(1), Seq(3))
            .await
            .unwrap()
            .merged_through,
        Seq(2)
    );
    // Forgotten: nobody can tell whether it is the same again, so it is not said to be merged.
    assert_eq!(
        fixture
            .one("select count(*)::text from anabranch.marks")
            .await
            .unwrap(),
        "1"
    );
    let outcomes = fixture.merge(vec![made()]).await;
    assert_eq!(rejection(&outcomes[0]).code, RejectCode::Equivocation);
    assert_eq!(
        fixture
            .store
            .greet(replica(2), Seq(1))
            .await
            .unwrap()
            .merged_through,
        Seq(0)
    );
}

/// The first and the last but one are fine.
fn good_and_bad(lists: &Table, items: &Table) -> Vec<Upload> {
    let one = |n, seq, delta| upload(n, seq, stamp(n, 10), vec![delta]);
    let item = |n, cells: &[(u16, Value)]| {
        let mut all = vec![(2, Value::Integer(1))];
        all.extend_from_slice(cells);
        delta(items, key(i64::from(n) * 10), write(stamp(n, 10), &all))
    };
    let milk = write(stamp(5, 10), &[(4, text("-5")), (3, text("x"))]);
    let taken = write(stamp(6, 10), &[(2, text("groceries"))]);
    let word = RowKey(vec![text("word")]);
    vec![
        one(1, 1, item(1, &[(3, text("fine"))])),
        one(2, 1, item(2, &[(4, text("-1"))])),
        one(3, 1, item(3, &[(2, Value::Integer(99))])),
        one(4, 1, item(4, &[(4, text("dear"))])),
        one(5, 1, delta(items, key(1), milk)),
        one(6, 1, delta(lists, key(2), taken)),
        one(7, 1, item(7, &[(77, text("no such column"))])),
        // Inserted before column 77 was dropped, and never given a value there.
        one(8, 1, item(8, &[(3, text("fine too")), (77, Value::Null)])),
        one(8, 2, delta(items, word, RowState::live(stamp(8, 10)))),
    ]
}

#[tokio::test]
async fn what_was_squashed_stands_for_numbers_that_nobody_has_seen() {
    let fixture = Fixture::new(DDL).await;
    let lists = fixture.table("lists").await;
    let made = |seq, replaces| {
        let at = stamp(1, seq);
        let state = write(at, &[(2, text(&format!("name {seq}")))]);
        let mut made = upload(1, seq, at, vec![delta(&lists, key(7), state)]);
        made.transaction.replaces = replaces;
        made
    };
    let outcomes = fixture.merge(vec![made(2, 1), made(3, 0)]).await;
    assert_eq!(outcomes, [MergeOutcome::Merged, MergeOutcome::Merged]);
    // Number 3 was merged by itself, so its counters would count twice.
    let outcomes = fixture.merge(vec![made(5, 2)]).await;
    assert_eq!(rejection(&outcomes[0]).code, RejectCode::Equivocation);
    let outcomes = fixture.merge(vec![made(7, 1)]).await;
    assert_eq!(outcomes, [MergeOutcome::Merged]);
}

#[tokio::test]
async fn a_refused_transaction_leaves_the_others_of_its_batch_alone() {
    let fixture = Fixture::new(DDL).await;
    let mut log = fixture.follow().await;
    let (lists, items) = (fixture.table("lists").await, fixture.table("items").await);
    let uploads = good_and_bad(&lists, &items);
    let outcomes = fixture.merge(uploads.clone()).await;
    assert_eq!(
        (&outcomes[0], &outcomes[7]),
        (&MergeOutcome::Merged, &MergeOutcome::Merged)
    );
    let refused = |index: usize, code, word: &str| {
        let said = rejection(&outcomes[index]);
        assert_eq!(said.code, code, "{said:?}");
        assert!(said.reason.contains(word), "{said:?}");
    };
    refused(1, RejectCode::Constraint, "items_price_check");
    refused(2, RejectCode::Constraint, "items_list_fkey");
    refused(3, RejectCode::InvalidValue, "dear");
    refused(4, RejectCode::Constraint, "items_price_check");
    refused(5, RejectCode::Constraint, "lists_name_key");
    refused(6, RejectCode::UnknownSchema, "77");
    refused(8, RejectCode::InvalidValue, "id");

    // What the store holds: of the refused row's refused columns; nothing, of rows it has not got.
    let held = &rejection(&outcomes[4]).rows[0].state;
    let mut expected = RowState::of_existence(Existence::from_iter([]));
    expected.existence_mut().add(Stamp::GENESIS);
    expected.set(ColumnId(3), Stamp::GENESIS, text("milk"));
    expected.set(ColumnId(4), Stamp::GENESIS, text("1.50"));
    assert_eq!(*held, expected);
    assert_eq!(rejection(&outcomes[1]).rows[0].state, RowState::new());

    // Sent again, each gets the same answer.
    let again = fixture.merge(uploads).await;
    for (index, outcome) in again.iter().enumerate() {
        match index {
            0 | 7 => assert!(matches!(outcome, MergeOutcome::Duplicate(_))),
            _ => assert_eq!(outcome, &outcomes[index]),
        }
    }
    log.catch_up(&fixture.sql).await;
    let origins: Vec<_> = log
        .heard()
        .into_iter()
        .flat_map(|heard| heard.origins)
        .collect();
    assert_eq!(origins, [(replica(1), Seq(1)), (replica(8), Seq(1))]);
    assert_eq!(log.present(&items).len(), 3);
    assert_eq!(
        fixture
            .one("select string_agg(title, ',' order by id) from items")
            .await
            .unwrap(),
        "milk,fine,fine too"
    );
}

#[tokio::test]
async fn many_uploads_are_one_commit() {
    let fixture = Fixture::new(DDL).await;
    let mut log = fixture.follow().await;
    let items = fixture.table("items").await;
    let at = |n: u8| stamp(n, 10);
    let one = |n: u8| {
        let state = write(at(n), &[(3, text("x"))]);
        upload(
            n,
            1,
            at(n),
            vec![delta(&items, key(i64::from(n) + 100), state)],
        )
    };
    let outcomes = fixture.merge((1..=100).map(one).collect()).await;
    assert!(
        outcomes
            .iter()
            .all(|outcome| *outcome == MergeOutcome::Merged)
    );
    log.catch_up(&fixture.sql).await;
    let heard = log.heard();
    assert_eq!(heard.len(), 1);
    assert_eq!((heard[0].origins.len(), heard[0].deltas.len()), (100, 100));
}

#[tokio::test]
async fn what_the_store_changes_in_a_value_travels_as_a_server_write() {
    let fixture = Fixture::new(&format!(
        "{DDL}
        create table stamped (id int primary key, body text, changed_by text);
        create function who() returns trigger language plpgsql as
            $$ begin new.changed_by := 'trigger'; return new; end $$;
        create trigger who before insert or update on stamped for each row execute function who();"
    ))
    .await;
    let mut log = fixture.follow().await;
    let (items, stamped) = (fixture.table("items").await, fixture.table("stamped").await);
    let at = future_stamp(1, 1000);
    let cells = [(2, Value::Integer(1)), (3, text("egg")), (4, text("2.5"))];
    fixture
        .merge(vec![upload(
            1,
            1,
            at,
            vec![
                delta(&items, key(2), write(at, &cells)),
                delta(&stamped, key(1), write(at, &[(2, text("b"))])),
            ],
        )])
        .await;
    log.catch_up(&fixture.sql).await;
    let row = log.row(&items, &key(2));
    assert_eq!(row.value(ColumnId(4)), Some(&text("2.50")));
    assert_eq!(row.value(ColumnId(5)), Some(&text("none")), "the default");
    assert_eq!(row.clock().register(ColumnId(3)), Some(at));
    for column in [4, 5] {
        let stamp = row.clock().register(ColumnId(column)).unwrap();
        assert!(
            stamp > at && stamp.replica == ReplicaId::SERVER,
            "{stamp:?}"
        );
    }
    let row = log.row(&stamped, &key(1));
    assert_eq!(row.value(ColumnId(3)), Some(&text("trigger")));
    assert_eq!(log.present(&items), fixture.snapshot(&items).await.1);

    // The replica has heard of it; its next write of that column wins as usual.
    let later = future_stamp(1, 5000);
    fixture
        .merge(vec![upload(
            1,
            2,
            later,
            vec![delta(&items, key(2), write(later, &[(4, text("3.00"))]))],
        )])
        .await;
    log.catch_up(&fixture.sql).await;
    let row = log.row(&items, &key(2));
    assert_eq!(row.value(ColumnId(4)), Some(&text("3.00")));
    assert_eq!(row.clock().register(ColumnId(4)), Some(later));
}

#[tokio::test]
async fn deletes_survive_old_writes_and_yield_to_concurrent_ones() {
    let fixture = Fixture::new(DDL).await;
    let mut log = fixture.follow().await;
    let items = fixture.table("items").await;
    let (born, edited) = (stamp(1, 10), stamp(2, 20));
    let cells = [(3, text("tea")), (4, text("1.00")), (5, text("hot"))];
    let first = delta(&items, key(5), write(born, &cells));
    fixture
        .merge(vec![upload(1, 1, born, vec![first.clone()])])
        .await;
    log.catch_up(&fixture.sql).await;

    // Replica 1 deletes what it has seen; replica 2 has edited meanwhile.
    let seen = log.row(&items, &key(5)).existence().clone();
    let delete = upload(
        1,
        2,
        stamp(1, 30),
        vec![delta(&items, key(5), removal(&seen))],
    );
    fixture.merge(vec![delete]).await;
    log.catch_up(&fixture.sql).await;
    assert!(!log.row(&items, &key(5)).existence().is_present());
    assert_eq!(
        fixture
            .one("select count(*)::text from items where id = 5")
            .await
            .unwrap(),
        "0"
    );

    let edit = delta(&items, key(5), write(edited, &[(3, text("coffee"))]));
    fixture.merge(vec![upload(2, 1, edited, vec![edit])]).await;
    log.catch_up(&fixture.sql).await;
    // Back, and whole: what nobody edited comes from the tombstone.
    let row = fixture
        .one("select title || price || note from items where id = 5")
        .await;
    assert_eq!(row.unwrap(), "coffee1.00hot");
    assert_eq!(log.present(&items), fixture.snapshot(&items).await.1);
    assert_eq!(
        fixture
            .one("select count(*)::text from anabranch.tombstones")
            .await
            .unwrap(),
        "0"
    );

    // Deleted with SQL, and then edited by a replica that had not heard.
    fixture.run("delete from items where id = 5").await;
    let edited = stamp(3, 40);
    let edit = delta(&items, key(5), write(edited, &[(3, text("cocoa"))]));
    fixture.merge(vec![upload(3, 1, edited, vec![edit])]).await;
    log.catch_up(&fixture.sql).await;
    let row = fixture
        .one("select title || price || note from items where id = 5")
        .await;
    assert_eq!(row.unwrap(), "cocoa1.00hot");
    assert_eq!(log.present(&items), fixture.snapshot(&items).await.1);
}

#[tokio::test]
async fn rows_are_written_parents_first_and_unique_values_can_move() {
    let fixture = Fixture::new(DDL).await;
    let mut log = fixture.follow().await;
    let (lists, items) = (fixture.table("lists").await, fixture.table("items").await);
    let at = stamp(1, 10);
    let outcomes = fixture
        .merge(vec![upload(
            1,
            1,
            at,
            vec![
                delta(
                    &items,
                    key(50),
                    write(at, &[(2, Value::Integer(9)), (3, text("child"))]),
                ),
                delta(&lists, key(9), write(at, &[(2, text("parent"))])),
            ],
        )])
        .await;
    assert_eq!(outcomes, [MergeOutcome::Merged]);
    log.catch_up(&fixture.sql).await;

    // The name moves from a deleted row to a new one.
    let seen = log.row(&lists, &key(9)).existence().clone();
    let child_seen = log.row(&items, &key(50)).existence().clone();
    let outcomes = fixture
        .merge(vec![upload(
            1,
            2,
            stamp(1, 20),
            vec![
                delta(&lists, key(9), removal(&seen)),
                delta(&items, key(50), removal(&child_seen)),
                delta(&lists, key(10), write(stamp(1, 20), &[(2, text("parent"))])),
            ],
        )])
        .await;
    assert_eq!(outcomes, [MergeOutcome::Merged]);
    log.catch_up(&fixture.sql).await;
    assert_eq!(log.present(&lists), fixture.snapshot(&lists).await.1);
    assert_eq!(log.present(&items), fixture.snapshot(&items).await.1);
}

#[tokio::test]
async fn triggers_and_cascades_in_the_wake_of_a_merge_are_server_writes() {
    let fixture = Fixture::new("
        create table parents (id int primary key, children int not null default 0);
        create table children (id int primary key, parent int references parents on delete cascade, t text);
        create function count_children() returns trigger language plpgsql as $$
        begin
            update parents set children = children + 1 where id = new.parent; return null;
        end $$;
        create trigger count after insert on children for each row execute function count_children();
        insert into parents values (1, 0);").await;
    let mut log = fixture.follow().await;
    let (parents, children) = (
        fixture.table("parents").await,
        fixture.table("children").await,
    );
    let at = stamp(1, 10);
    let child = write(at, &[(2, Value::Integer(1)), (3, text("c"))]);
    fixture
        .merge(vec![upload(
            1,
            1,
            at,
            vec![delta(&children, key(1), child)],
        )])
        .await;
    log.catch_up(&fixture.sql).await;
    assert_eq!(log.heard().len(), 1, "one commit");
    let parent = log.row(&parents, &key(1));
    assert_eq!(parent.value(ColumnId(2)), Some(&Value::Integer(1)));
    assert!(parent.clock().register(ColumnId(2)) > Some(Stamp::GENESIS));

    let seen = parent.existence().clone();
    let delete = upload(
        1,
        2,
        stamp(1, 20),
        vec![delta(&parents, key(1), removal(&seen))],
    );
    assert_eq!(fixture.merge(vec![delete]).await, [MergeOutcome::Merged]);
    log.catch_up(&fixture.sql).await;
    assert!(log.present(&children).is_empty() && log.present(&parents).is_empty());
    assert_eq!(
        fixture
            .one("select count(*)::text from children")
            .await
            .unwrap(),
        "0"
    );
}
