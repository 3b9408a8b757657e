//! What other programs do with plain SQL reaches replicas as server writes, row by row.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use anabranch_crdt::{ColumnId, Hlc, ReplicaId, Stamp, Value};
use common::{Fixture, key, text};

const DDL: &str = "
    create table lists (id int primary key, name text not null);
    create table items (id int primary key, list int references lists on delete cascade,
                        title text, done boolean not null default false);
    insert into lists values (1, 'old');
    insert into items values (1, 1, 'before', false);";

#[tokio::test]
async fn insert_update_delete_and_key_change() {
    let fixture = Fixture::new(DDL).await;
    let mut log = fixture.follow().await;
    let items = fixture.table("items").await;

    fixture
        .run("insert into items values (2, 1, 'two', true)")
        .await;
    fixture
        .run("update items set title = 'touched' where id = 1")
        .await;
    log.catch_up(&fixture.sql).await;
    let heard = log.heard();
    assert_eq!(heard.len(), 2, "one transaction each: {heard:?}");
    assert!(
        heard
            .iter()
            .all(|transaction| transaction.origins.is_empty())
    );

    let two = log.row(&items, &key(2));
    assert_eq!(two.value(ColumnId(3)), Some(&text("two")));
    assert_eq!(two.value(ColumnId(4)), Some(&Value::Integer(1)));
    let stamps: Vec<Stamp> = two.cells().map(|(_, stamp, _)| stamp).collect();
    assert!(
        stamps
            .iter()
            .all(|stamp| stamp.replica == ReplicaId::SERVER && stamp.hlc > Hlc::ZERO)
    );

    // A row from before: only what was written is stamped, the rest is as old as can be.
    let one = log.row(&items, &key(1));
    assert_eq!(one.clock().register(ColumnId(2)), Some(Stamp::GENESIS));
    assert!(one.clock().register(ColumnId(3)) > Some(Stamp::GENESIS));
    assert_eq!(one.value(ColumnId(3)), Some(&text("touched")));

    fixture
        .run("update items set id = 20 where id = 2; delete from items where id = 1")
        .await;
    log.catch_up(&fixture.sql).await;
    assert!(!log.row(&items, &key(2)).existence().is_present());
    assert!(!log.row(&items, &key(1)).existence().is_present());
    assert_eq!(
        log.row(&items, &key(20)).value(ColumnId(3)),
        Some(&text("two"))
    );
    assert_eq!(log.present(&items), fixture.snapshot(&items).await.1);
}

#[tokio::test]
async fn cascade_truncate_and_upsert() {
    let fixture = Fixture::new(DDL).await;
    let mut log = fixture.follow().await;
    let (items, lists) = (fixture.table("items").await, fixture.table("lists").await);

    fixture
        .run("insert into lists values (2, 'a'), (3, 'b')")
        .await;
    fixture
        .run("insert into items select n, 2 + n % 2, 'x', false from generate_series(10, 19) n")
        .await;
    fixture.run("delete from lists where id in (1, 2)").await;
    log.catch_up(&fixture.sql).await;
    assert_eq!(
        log.present(&items).len(),
        5,
        "the rows of lists 1 and 2 are gone"
    );
    assert_eq!(log.present(&items), fixture.snapshot(&items).await.1);

    let upsert = "insert into items values (11, 3, 'new', false)
                  on conflict (id) do update set title = excluded.title";
    fixture.run(upsert).await;
    log.catch_up(&fixture.sql).await;
    assert_eq!(
        log.row(&items, &key(11)).value(ColumnId(3)),
        Some(&text("new"))
    );

    fixture
        .run(
            "begin; update items set done = true; truncate lists cascade; \
                 insert into lists values (3, 'again'); commit",
        )
        .await;
    log.catch_up(&fixture.sql).await;
    assert!(log.present(&items).is_empty());
    assert_eq!(log.present(&lists).len(), 1);
    assert_eq!(log.present(&lists), fixture.snapshot(&lists).await.1);

    // A row that comes back has its new values, every one stamped anew.
    fixture
        .run("insert into items (id, title) values (11, 'back')")
        .await;
    log.catch_up(&fixture.sql).await;
    assert_eq!(
        log.row(&items, &key(11)).value(ColumnId(3)),
        Some(&text("back"))
    );
    assert_eq!(
        log.row(&items, &key(11)).value(ColumnId(2)),
        Some(&Value::Null)
    );
    assert_eq!(log.present(&items), fixture.snapshot(&items).await.1);
}

#[tokio::test]
async fn writes_past_the_trigger_are_found_and_stamped() {
    let fixture = Fixture::new(DDL).await;
    let mut log = fixture.follow().await;
    let items = fixture.table("items").await;

    fixture
        .run("insert into items values (2, 1, 'two', true)")
        .await;
    fixture.run("set session_replication_role = replica").await;
    fixture
        .run("insert into items values (3, 1, 'three', true)")
        .await;
    fixture
        .run("update items set title = 'deux' where id = 2; delete from items where id = 1")
        .await;
    fixture.run("set session_replication_role = default").await;
    log.catch_up(&fixture.sql).await;
    assert_eq!(
        log.row(&items, &key(2)).value(ColumnId(3)),
        Some(&text("deux"))
    );
    assert_eq!(
        log.row(&items, &key(3)).value(ColumnId(3)),
        Some(&text("three"))
    );
    assert!(!log.row(&items, &key(1)).existence().is_present());
    assert_eq!(log.present(&items), fixture.snapshot(&items).await.1);
}
