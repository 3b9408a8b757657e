//! What is wrong with a database is said, with what to do about it, and before anything is changed.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use anabranch_postgres::{PostgresOptions, PostgresStore, TableSelection, install, uninstall};
use anabranch_store::{Store as _, StoreError};
use anabranch_testkit::cluster::{Cluster, ClusterOptions, PgBinaries, WalLevel};
use common::{Fixture, client, fresh_database, options};

fn said(error: &StoreError, words: &[&str]) {
    assert!(matches!(error, StoreError::Misconfigured(_)), "{error:?}");
    for word in words {
        assert!(error.to_string().contains(word), "{error} lacks {word:?}");
    }
}

#[tokio::test]
async fn installing_twice_changes_nothing_and_adds_tables() {
    let (url, slot) = fresh_database();
    let sql = client(&url).await;
    sql.batch_execute("create table a (id int primary key, v text); insert into a values (1, 'x')")
        .await
        .unwrap();
    assert_eq!(install(&url, &TableSelection::All).await.unwrap(), ["a"]);
    let store = PostgresStore::connect(&options(&url, &slot)).await.unwrap();
    let before = store.schema().await.unwrap();
    install(&url, &TableSelection::All).await.unwrap();
    assert_eq!(store.schema().await.unwrap(), before);

    sql.batch_execute("create table \"B c\" (id uuid primary key)")
        .await
        .unwrap();
    let more = TableSelection::Named(vec!["\"B c\"".to_owned()]);
    install(&url, &more).await.unwrap();
    let after = store.schema().await.unwrap();
    assert!(after.version > before.version);
    let names: Vec<&str> = after
        .tables
        .iter()
        .map(|table| table.name.as_str())
        .collect();
    assert_eq!(names, ["a", "B c"]);
    assert_eq!(after.tables[0], before.tables[0], "numbers stay");

    drop(store.follow().await.unwrap());
    drop(store);
    let mut gone = uninstall(&url, &slot).await;
    for _ in 0..50 {
        if gone.is_ok() {
            break;
        }
        // The slot is let go of when its session has ended.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        gone = uninstall(&url, &slot).await;
    }
    gone.unwrap();
    sql.batch_execute("insert into a values (2, 'y'); update a set v = 'z'")
        .await
        .unwrap();
    said(
        &PostgresStore::connect(&options(&url, &slot))
            .await
            .unwrap_err(),
        &["not installed", "run the installation"],
    );
}

#[tokio::test]
async fn tables_that_cannot_be_replicated_are_listed_before_anything_is_touched() {
    let (url, _) = fresh_database();
    let sql = client(&url).await;
    sql.batch_execute(
        "create table good (id int primary key);
         create table keyless (v text);
         create table parted (id int primary key) partition by range (id);
         create table late (id int primary key deferrable);
         create table faceless (id int primary key);
         alter table faceless replica identity nothing",
    )
    .await
    .unwrap();
    let error = install(&url, &TableSelection::All).await.unwrap_err();
    said(
        &error,
        &[
            "late has a deferrable",
            "faceless has REPLICA IDENTITY NOTHING",
            "keyless has no primary key",
            "parted is partitioned",
            "nothing was installed",
        ],
    );
    let named = TableSelection::Named(vec!["missing".to_owned(), "good".to_owned()]);
    said(
        &install(&url, &named).await.unwrap_err(),
        &["there is no table missing"],
    );
    let schemas = "select from pg_namespace where nspname = 'anabranch'";
    assert!(sql.query(schemas, &[]).await.unwrap().is_empty());
    // The application's statements go on as before.
    sql.batch_execute("insert into keyless values ('x'); update keyless set v = 'y'")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_log_that_tells_too_little_and_a_wrong_password_are_named() {
    let options = ClusterOptions {
        wal_level: WalLevel::Replica,
        tcp_password: Some("secret".to_owned()),
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start(&PgBinaries::find().unwrap(), options).unwrap();
    let database = cluster.fresh_database().unwrap();
    let url = cluster.tcp_url(&database).unwrap();
    cluster
        .sql(&database, "create table a (id int primary key, v text)")
        .unwrap();
    let error = install(&url, &TableSelection::All).await.unwrap_err();
    said(
        &error,
        &[
            "wal_level",
            "ALTER SYSTEM SET wal_level = logical",
            "restart",
        ],
    );

    let wrong = url.replace("secret", "guess");
    let error = PostgresStore::connect(&PostgresOptions::new(wrong))
        .await
        .unwrap_err();
    said(&error, &["password", "28P01"]);
    let error = PostgresStore::connect(&PostgresOptions::new("postgres://x@/:")).await;
    assert!(error.is_err());
    let slot = PostgresOptions {
        slot: "Not-a-slot".to_owned(),
        ..PostgresOptions::new(url)
    };
    said(
        &PostgresStore::connect(&slot).await.unwrap_err(),
        &["lower-case"],
    );

    cluster.stop_fast().unwrap();
    let error = PostgresStore::connect(&PostgresOptions::new(cluster.url(&database))).await;
    assert!(matches!(error.unwrap_err(), StoreError::Unavailable(_)));
}

#[tokio::test]
async fn the_log_is_followed_with_a_password() {
    let options = ClusterOptions {
        tcp_password: Some("pass w\u{f6}rd".to_owned()),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(&PgBinaries::find().unwrap(), options).unwrap();
    let database = cluster.fresh_database().unwrap();
    cluster
        .sql(&database, "create table a (id int primary key, v text)")
        .unwrap();
    let url = cluster.tcp_url(&database).unwrap();
    install(&url, &TableSelection::All).await.unwrap();
    let store = PostgresStore::connect(&PostgresOptions::new(url))
        .await
        .unwrap();
    let mut events = store.follow().await.unwrap();
    cluster
        .sql(&database, "insert into a values (1, 'x')")
        .unwrap();
    let heard = tokio::time::timeout(common::PATIENCE, events.recv())
        .await
        .unwrap();
    assert!(heard.is_some());
}

#[tokio::test]
async fn a_table_taken_up_later_is_told_of_and_needs_no_rights_of_its_writers() {
    let fixture = Fixture::new("create table a (id int primary key)").await;
    let mut log = fixture.follow().await;
    fixture
        .run(
            "create table later (id int primary key, v text); insert into later values (1, 'old');
             drop role if exists clerk; create role clerk; grant all on a, later to clerk",
        )
        .await;
    install(
        &fixture.url,
        &TableSelection::Named(vec!["later".to_owned()]),
    )
    .await
    .unwrap();
    fixture
        .run("set role clerk; update later set v = 'new'; insert into a values (1)")
        .await;
    fixture.run("reset role").await;
    log.catch_up(&fixture.sql).await;
    let later = fixture.table("later").await;
    let told = log.row(&later, &common::key(1));
    assert_eq!(
        told.value(anabranch_crdt::ColumnId(2)),
        Some(&common::text("new"))
    );
    assert_eq!(log.present(&later), fixture.snapshot(&later).await.1);
    fixture.run("drop owned by clerk; drop role clerk").await;
}
