//! Postgres dies, restarts and stops; slots move when nothing happens and are made anew when lost.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use std::time::Duration;

use anabranch_postgres::{PostgresOptions, PostgresStore, TableSelection, install};
use anabranch_store::{LogEvent, MergeOutcome, Store as _, StoreError};
use anabranch_testkit::cluster::{Cluster, ClusterOptions, PgBinaries};
use common::{Fixture, PATIENCE, delta, key, stamp, text, upload, write};

#[tokio::test]
async fn merging_goes_on_after_a_crash_and_nothing_is_merged_twice() {
    let mut cluster =
        Cluster::start(&PgBinaries::find().unwrap(), ClusterOptions::default()).unwrap();
    let database = cluster.fresh_database().unwrap();
    cluster
        .sql(&database, "create table a (id int primary key, v text)")
        .unwrap();
    let url = cluster.url(&database);
    install(&url, &TableSelection::All).await.unwrap();
    let store = PostgresStore::connect(&PostgresOptions::new(url))
        .await
        .unwrap();
    let table = store.schema().await.unwrap().tables[0].clone();
    let at = stamp(1, 5);
    let row = |n| delta(&table, key(n), write(at, &[(2, text("x"))]));
    let first = upload(1, 1, at, vec![row(1)]);
    let second = upload(1, 2, at, vec![row(2)]);

    let mut events = store.follow().await.unwrap();
    assert_eq!(
        store.merge(vec![first.clone()]).await.unwrap(),
        [MergeOutcome::Merged]
    );
    cluster.sql(&database, "checkpoint").unwrap();
    cluster.kill().unwrap();
    let error = store.merge(vec![second.clone()]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    while let Some(event) = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap() {
        assert!(!matches!(event, LogEvent::SchemaChanged(_)));
    }

    cluster.start_again().unwrap();
    let outcomes = store.merge(vec![first, second]).await.unwrap();
    assert!(
        matches!(outcomes[0], MergeOutcome::Duplicate(_)),
        "{outcomes:?}"
    );
    assert_eq!(outcomes[1], MergeOutcome::Merged);
    let mut events = store.follow().await.unwrap();
    let told = async {
        loop {
            if let LogEvent::Transaction(told) = events.recv().await.unwrap()
                && told.deltas.iter().any(|delta| delta.key == key(2))
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();

    // A server that stops in good order waits for its followers to have heard everything.
    cluster.stop_fast().unwrap();
    while tokio::time::timeout(PATIENCE, events.recv())
        .await
        .unwrap()
        .is_some()
    {}
}

#[tokio::test]
async fn the_slot_moves_while_only_other_tables_are_written() {
    let fixture = Fixture::new("create table a (id int primary key);").await;
    let mut log = fixture.follow().await;
    let confirmed = format!(
        "select (confirmed_flush_lsn - '0/0')::text from pg_replication_slots where slot_name = '{}'",
        fixture.slot
    );
    let before: u64 = fixture.one(&confirmed).await.unwrap().parse().unwrap();
    fixture.run("create table elsewhere (v text)").await;
    fixture
        .run("insert into elsewhere select repeat('x', 1000) from generate_series(1, 2000)")
        .await;
    let moved = async {
        loop {
            let now: u64 = fixture.one(&confirmed).await.unwrap().parse().unwrap();
            if now > before + 1_000_000 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            while let Ok(event) = log.events.try_recv() {
                assert!(matches!(event, LogEvent::Idle(_)), "{event:?}");
            }
        }
    };
    tokio::time::timeout(PATIENCE, moved).await.unwrap();
}

#[tokio::test]
async fn a_second_follower_takes_over_and_a_consumer_that_stalls_is_not_cut_off() {
    let options = ClusterOptions {
        settings: vec![("wal_sender_timeout".to_owned(), "1s".to_owned())],
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(&PgBinaries::find().unwrap(), options).unwrap();
    let database = cluster.fresh_database().unwrap();
    cluster
        .sql(&database, "create table a (id int primary key, v text)")
        .unwrap();
    let url = cluster.url(&database);
    install(&url, &TableSelection::All).await.unwrap();
    let store = PostgresStore::connect(&PostgresOptions::new(&url))
        .await
        .unwrap();
    drop(store.follow().await.unwrap());
    let mut events = store.follow().await.unwrap();
    let sql = common::client(&url).await;
    for number in 0..300 {
        sql.execute("insert into a values ($1, 'x')", &[&number])
            .await
            .unwrap();
    }
    // Longer than the server's patience with a silent client.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut rows = 0;
    while rows < 300 {
        let event = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap();
        if let LogEvent::Transaction(told) = event.expect("the log broke off") {
            rows += told.deltas.len();
        }
    }
}

#[tokio::test]
async fn a_lost_slot_is_made_anew() {
    let options = ClusterOptions {
        settings: vec![
            ("max_slot_wal_keep_size".to_owned(), "1MB".to_owned()),
            ("max_wal_size".to_owned(), "32MB".to_owned()),
        ],
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(&PgBinaries::find().unwrap(), options).unwrap();
    let database = cluster.fresh_database().unwrap();
    cluster
        .sql(&database, "create table a (id int primary key, v text)")
        .unwrap();
    let url = cluster.url(&database);
    install(&url, &TableSelection::All).await.unwrap();
    let store = PostgresStore::connect(&PostgresOptions::new(&url))
        .await
        .unwrap();
    drop(store.follow().await.unwrap());
    let sql = common::client(&url).await;
    let lost = async {
        loop {
            sql.batch_execute(
                "create table if not exists filler (v text); insert into filler \
                select repeat('x', 1000) from generate_series(1, 20000); select pg_switch_wal(); \
                checkpoint",
            )
            .await
            .unwrap();
            let status =
                "select wal_status from pg_replication_slots where slot_name = 'anabranch'";
            let status: Option<String> = sql.query_one(status, &[]).await.unwrap().get(0);
            if status.as_deref() == Some("lost") {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, lost).await.unwrap();
    let mut events = store.follow().await.unwrap();
    sql.batch_execute("insert into a values (1, 'x')")
        .await
        .unwrap();
    let told = async { while !matches!(events.recv().await.unwrap(), LogEvent::Transaction(_)) {} };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
}
