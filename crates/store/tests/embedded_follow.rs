//! A snapshot and the log after it have no hole and no overlap that matters, while programs write.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::{collections::BTreeMap, time::Duration};

use anabranch_crdt::{RowKey, RowState, Value};
use anabranch_protocol::{Position, Seq};
use anabranch_store::{
    LogEvent, MergeOutcome, SnapshotQuery, Store, StoreError, embedded::EmbeddedStore,
};
use common::{key, replica, stamp, upload, write};
use rusqlite::Connection;

const TABLE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b INTEGER)";

async fn next(events: &mut tokio::sync::mpsc::Receiver<LogEvent>) -> LogEvent {
    tokio::time::timeout(Duration::from_secs(20), events.recv())
        .await
        .unwrap()
        .unwrap()
}

async fn query(store: &EmbeddedStore) -> SnapshotQuery {
    let schema = store.schema().await.unwrap();
    let table = schema.table_named("t").unwrap();
    let columns = table.registers().map(|column| column.id).collect();
    SnapshotQuery {
        table: table.id,
        filter: None,
        columns,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn merges_and_other_programs_are_told_in_order() -> Result<(), StoreError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = EmbeddedStore::open(&path, Some(TABLE))?;
    let mut events = store.follow().await?;
    let LogEvent::Idle(Position(0)) = next(&mut events).await else {
        panic!("where the log stands is told first")
    };
    let table = store.schema().await?.table_named("t").unwrap().id;
    let at = stamp(0, 1);
    let pushed = upload(
        1,
        1,
        at,
        vec![write(table, key(1), at, &[(2, Value::text("x"))])],
    );
    assert_eq!(store.merge(vec![pushed]).await?, [MergeOutcome::Merged]);
    let LogEvent::Transaction(told) = next(&mut events).await else {
        panic!()
    };
    assert_eq!(told.origins, [(replica(1), Seq(1))]);
    assert_eq!(
        store.greet(replica(1), Seq(1)).await?.merged_through,
        Seq(1)
    );

    Connection::open(&path)
        .unwrap()
        .execute("INSERT INTO t VALUES (2, 'y', 2)", [])
        .unwrap();
    let LogEvent::Transaction(told) = next(&mut events).await else {
        panic!()
    };
    assert_eq!((told.origins.len(), &told.deltas[0].key), (0, &key(2)));

    Connection::open(&path)
        .unwrap()
        .execute_batch("ALTER TABLE t ADD COLUMN c")
        .unwrap();
    let LogEvent::SchemaChanged(schema) = next(&mut events).await else {
        panic!()
    };
    assert_eq!(schema.table_named("t").unwrap().columns.len(), 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_and_the_log_after_it_are_the_whole_truth() -> Result<(), StoreError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = EmbeddedStore::open(&path, Some(TABLE))?;
    let query = query(&store).await;
    let mut events = store.follow().await?;
    let writer = std::thread::spawn({
        let path = path.clone();
        move || {
            let conn = Connection::open(path).unwrap();
            conn.busy_timeout(Duration::from_secs(20)).unwrap();
            for round in 0..200_i64 {
                let sql = match round % 4 {
                    0 | 1 => "INSERT OR REPLACE INTO t VALUES (?1 % 17, 'r' || ?1, ?1)",
                    2 => "UPDATE t SET b = ?1 WHERE id % 3 = ?1 % 3",
                    _ => "DELETE FROM t WHERE id = ?1 % 5",
                };
                conn.execute(sql, [round]).unwrap();
            }
        }
    });
    let mut rows: BTreeMap<RowKey, RowState> = BTreeMap::new();
    let mut snapshot = store.snapshot(query.clone()).await?;
    while let Some(chunk) = snapshot.chunks.recv().await {
        rows.extend(chunk?.into_iter().map(|row| (row.key, row.state)));
    }
    writer.join().unwrap();
    let last = store.snapshot(query).await?;
    let end = last.visibility.fence;
    let mut told = snapshot.visibility.fence;
    while told < end {
        let LogEvent::Transaction(transaction) = next(&mut events).await else {
            continue;
        };
        if snapshot.visibility.saw(&transaction) {
            continue;
        }
        told = transaction.position;
        for delta in &transaction.deltas {
            let _ = rows
                .entry(delta.key.clone())
                .or_default()
                .merge(&delta.state);
        }
    }
    rows.retain(|_, state| state.existence().is_present());
    let mut truth: BTreeMap<RowKey, RowState> = BTreeMap::new();
    let mut chunks = last.chunks;
    while let Some(chunk) = chunks.recv().await {
        truth.extend(chunk?.into_iter().map(|row| (row.key, row.state)));
    }
    assert_eq!(rows, truth);
    let conn = Connection::open(&path).unwrap();
    let count: i64 = conn
        .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .unwrap();
    assert_eq!(usize::try_from(count).unwrap(), truth.len());
    Ok(())
}

#[tokio::test]
async fn sql_that_fails_makes_no_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let refused = EmbeddedStore::open(
        &path,
        Some("CREATE TABLE t (id INTEGER PRIMARY KEY); nonsense"),
    );
    assert!(matches!(refused, Err(StoreError::Misconfigured(why)) if why.contains("nonsense")));
}
