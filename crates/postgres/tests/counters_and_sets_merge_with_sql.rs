//! Counters and sets in Postgres: what replicas and plain SQL add adds up, and rules are kept.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use anabranch_crdt::{ColumnId, ColumnState, Counter, ElementSet, MergeKind, RowState, Value};
use anabranch_postgres::{PostgresOptions, PostgresStore, TableSelection, declare, install_with};
use anabranch_protocol::RejectCode;
use anabranch_shape::{
    rules::{Rules, TableRules},
    schema::DeletePolicy,
};
use anabranch_store::MergeOutcome;
use common::{Fixture, delta, fresh_database, key, rejection, stamp, text, upload};

const DDL: &str = "
    create table notes (id int primary key, likes smallint not null default 0, tags jsonb, title text);
    insert into notes values (1, 5, '[\"old\"]', 'one');";
const LIKES: ColumnId = ColumnId(2);
const TAGS: ColumnId = ColumnId(3);

fn notes() -> TableRules {
    TableRules::new()
        .column("likes", MergeKind::Counter)
        .column("tags", MergeKind::Set)
}

/// What a replica writes that adds to the likes and adds a tag.
fn like(replica: u8, ms: u64, likes: i64, tag: &str) -> RowState {
    let at = stamp(replica, ms);
    let mut state = RowState::live(at);
    state.set_column(LIKES, ColumnState::Counter(Counter::new().write(likes, at)));
    let tags = ElementSet::new().write(&text(&format!("[\"{tag}\"]")), at);
    state.set_column(TAGS, ColumnState::Set(tags));
    state
}

#[tokio::test]
async fn two_replicas_and_a_sql_writer_add_up() {
    let fixture = Fixture::with_rules(DDL, &Rules::new().table("notes", notes())).await;
    let table = fixture.table("notes").await;
    let mut log = fixture.follow().await;
    let (ann, bob) = (like(1, 1000, 2, "ann"), like(2, 1000, 3, "bob"));
    let uploads = vec![
        upload(
            1,
            1,
            stamp(1, 1000),
            vec![delta(&table, key(1), ann.clone())],
        ),
        upload(
            2,
            1,
            stamp(2, 1000),
            vec![delta(&table, key(1), bob.clone())],
        ),
    ];
    fixture
        .run("update notes set likes = likes + 10, tags = tags || '[\"sql\"]'")
        .await;
    let outcomes = fixture.merge(uploads).await;
    assert_eq!(outcomes, [MergeOutcome::Merged, MergeOutcome::Merged]);
    fixture
        .run("update notes set likes = likes - 1, tags = tags - 'old'")
        .await;
    let held = fixture.one("select likes || ' ' || tags from notes").await;
    assert_eq!(held.unwrap(), "19 [\"ann\", \"bob\", \"sql\"]");

    log.catch_up(&fixture.sql).await;
    let row = log.row(&table, &key(1)).clone();
    assert_eq!(row.value(LIKES), Some(&Value::Integer(19)));
    assert_eq!(row.value(TAGS), Some(&text("[\"ann\", \"bob\", \"sql\"]")));
    assert_eq!(fixture.snapshot(&table).await.1[&key(1)], row);
    // Whoever was offline meanwhile ends with the same.
    let mut late = ann;
    let _ = late.merge(&bob);
    let _ = late.merge(&row);
    assert_eq!(late.value(LIKES), Some(&Value::Integer(19)));
}

#[tokio::test]
async fn what_sql_adds_while_replicas_are_merged_is_lost_nowhere() {
    const ROUNDS: u64 = 40;
    let fixture = Fixture::with_rules(DDL, &Rules::new().table("notes", notes())).await;
    let table = fixture.table("notes").await;
    let mut log = fixture.follow().await;
    let writing = async {
        for round in 0..ROUNDS {
            let sql = "update notes set likes = likes + 1, tags = tags || to_jsonb('s";
            fixture.run(&format!("{sql}{round}'::text)")).await;
        }
    };
    let merging = async {
        for round in 1..=ROUNDS {
            let likes = like(1, 1000 + round, 2, &format!("m{round}"));
            let at = stamp(1, 1000 + round);
            let sent = upload(1, round, at, vec![delta(&table, key(1), likes)]);
            assert_eq!(fixture.merge(vec![sent]).await, [MergeOutcome::Merged]);
        }
    };
    tokio::join!(writing, merging);
    let sum = 5 + i64::try_from(ROUNDS * 3).unwrap();
    let held = fixture.one("select likes || ' ' || jsonb_array_length(tags) from notes");
    assert_eq!(held.await.unwrap(), format!("{sum} {}", 1 + ROUNDS * 2));
    log.catch_up(&fixture.sql).await;
    let row = log.row(&table, &key(1));
    assert_eq!(row.value(LIKES), Some(&Value::Integer(sum)));
    assert_eq!(fixture.snapshot(&table).await.1[&key(1)], *row);
}

#[tokio::test]
async fn an_element_that_sql_adds_and_removes_is_gone_everywhere() {
    let fixture = Fixture::with_rules(DDL, &Rules::new().table("notes", notes())).await;
    let table = fixture.table("notes").await;
    let mut log = fixture.follow().await;
    fixture
        .run("update notes set tags = '[\"old\", \"brief\"]'")
        .await;
    log.catch_up(&fixture.sql).await;
    assert_eq!(
        log.row(&table, &key(1)).value(TAGS),
        Some(&text("[\"brief\", \"old\"]"))
    );
    fixture.run("update notes set tags = '[\"old\"]'").await;
    log.catch_up(&fixture.sql).await;
    assert_eq!(
        log.row(&table, &key(1)).value(TAGS),
        Some(&text("[\"old\"]"))
    );
    fixture
        .run("update notes set tags = '[\"old\", \"kept\"]'; delete from notes")
        .await;
    fixture
        .run("insert into notes values (1, 1, '[\"new\"]', 'again')")
        .await;
    log.catch_up(&fixture.sql).await;
    let row = log.row(&table, &key(1));
    assert_eq!(row.value(TAGS), Some(&text("[\"new\"]")));
    assert_eq!(row.value(LIKES), Some(&Value::Integer(1)));
}

#[tokio::test]
async fn a_sum_that_does_not_fit_is_refused_and_a_trigger_has_the_last_word() {
    let ddl = format!(
        "{DDL} create function three() returns trigger language plpgsql as $$ begin
             new.tags = '[\"three\"]'; new.likes = 3; return new; end $$;"
    );
    let fixture = Fixture::with_rules(&ddl, &Rules::new().table("notes", notes())).await;
    let table = fixture.table("notes").await;
    let mut log = fixture.follow().await;
    let much = like(1, 1000, 40_000, "much");
    let sent = upload(1, 1, stamp(1, 1000), vec![delta(&table, key(1), much)]);
    let outcomes = fixture.merge(vec![sent]).await;
    let refused = rejection(&outcomes[0]);
    assert_eq!(refused.code, RejectCode::InvalidValue, "{}", refused.reason);
    let told = &refused.rows[0].state;
    assert_eq!(told.value(LIKES), Some(&Value::Integer(5)));
    assert_eq!(told.value(TAGS), Some(&text("[\"old\"]")));

    fixture
        .run("create trigger t before update on notes for each row execute function three()")
        .await;
    let one = like(1, 2000, 1, "one");
    let sent = upload(1, 2, stamp(1, 2000), vec![delta(&table, key(1), one)]);
    assert_eq!(fixture.merge(vec![sent]).await, [MergeOutcome::Merged]);
    log.catch_up(&fixture.sql).await;
    let row = log.row(&table, &key(1));
    assert_eq!(row.value(LIKES), Some(&Value::Integer(3)));
    assert_eq!(row.value(TAGS), Some(&text("[\"three\"]")));
}

#[tokio::test]
async fn a_register_write_to_a_counter_is_refused() {
    let fixture = Fixture::with_rules(DDL, &Rules::new().table("notes", notes())).await;
    let table = fixture.table("notes").await;
    let mut state = RowState::live(stamp(1, 1000));
    state.set(LIKES, stamp(1, 1000), Value::text("many"));
    let sent = upload(1, 1, stamp(1, 1000), vec![delta(&table, key(1), state)]);
    let outcomes = fixture.merge(vec![sent]).await;
    let refused = rejection(&outcomes[0]);
    assert_eq!(refused.code, RejectCode::InvalidValue);
    assert_eq!(
        refused.reason,
        "notes.likes is a counter; write whole numbers"
    );
}

#[tokio::test]
async fn updates_do_not_bring_a_row_back_where_deletes_win() {
    let rules = notes().delete(DeletePolicy::WinsOverUpdate);
    let fixture = Fixture::with_rules(DDL, &Rules::new().table("notes", rules)).await;
    let table = fixture.table("notes").await;
    let mut log = fixture.follow().await;
    let seen = log.row(&table, &key(1)).existence().clone();
    fixture.run("update notes set title = 'edited'").await;
    let gone = common::removal(&seen);
    let sent = upload(1, 1, stamp(1, 1000), vec![delta(&table, key(1), gone)]);
    assert_eq!(fixture.merge(vec![sent]).await, [MergeOutcome::Merged]);
    assert_eq!(fixture.one("select title from notes").await, None);
    fixture
        .run("insert into notes values (1, 0, null, 'anew')")
        .await;
    log.catch_up(&fixture.sql).await;
    let row = log.row(&table, &key(1));
    assert!(row.existence().is_present());
    assert_eq!(row.value(ColumnId(4)), Some(&text("anew")));
}

#[tokio::test]
async fn a_kind_is_fixed_once_the_table_is_served() {
    let (url, slot) = fresh_database();
    let sql = common::client(&url).await;
    sql.batch_execute(DDL).await.unwrap();
    let misfit = Rules::new().table(
        "notes",
        TableRules::new().column("title", MergeKind::Counter),
    );
    let refused = install_with(&url, &TableSelection::All, &misfit)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("make it an integer type"),
        "{refused}"
    );

    install_with(&url, &TableSelection::All, &Rules::new())
        .await
        .unwrap();
    let options = PostgresOptions {
        rules: Rules::new().table("notes", notes()),
        ..common::options(&url, &slot)
    };
    let store = PostgresStore::connect(&options).await.unwrap();
    drop(store);
    let other = Rules::new().table(
        "notes",
        TableRules::new().column("likes", MergeKind::Counter),
    );
    let refused = declare(&url, &other).await.unwrap_err().to_string();
    assert!(
        refused.starts_with("notes.tags is replicated as a set"),
        "{refused}"
    );
    let same = Rules::new().table("notes", notes().delete(DeletePolicy::WinsOverUpdate));
    declare(&url, &same).await.unwrap();
}
