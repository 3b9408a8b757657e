//! A snapshot and the log from before it make up the table, whoever writes meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use std::{collections::BTreeMap, sync::Arc};

use anabranch_crdt::{RowKey, RowState, Value};
use anabranch_shape::Predicate;
use anabranch_store::{SnapshotQuery, Store as _};
use common::{Fixture, client, key};

const DDL: &str = "
    create table n (id int primary key, v int, t text collate \"C\");
    insert into n select i, 0, 't' || i from generate_series(1, 500) i;";

/// Writes at random until told to stop, with transactions of different lengths side by side.
fn spawn_writer(
    url: &str,
    seed: i64,
    stop: Arc<tokio::sync::Notify>,
) -> tokio::task::JoinHandle<()> {
    let url = url.to_owned();
    tokio::spawn(async move {
        let sql = client(&url).await;
        for step in 0_i64.. {
            let n = (seed * 7919 + step * 104_729) % 600 + 1;
            let statement = match step % 4 {
                0 => format!("insert into n values ({n}, {step}, 'new') on conflict do nothing"),
                1 => format!("delete from n where id = {n}"),
                2 => format!(
                    "begin; update n set v = v + 1 where id = {n}; select pg_sleep(0.01);
                              update n set t = 'step {step}' where id = {n}; commit"
                ),
                _ => format!("update n set v = {step} where id between {n} and {n} + 5"),
            };
            // Two writers may deadlock with each other; whoever loses goes on.
            if sql.batch_execute(&statement).await.is_err() {
                sql.batch_execute("rollback").await.unwrap();
            }
            let stopped = tokio::time::timeout(std::time::Duration::ZERO, stop.notified()).await;
            if stopped.is_ok() {
                return;
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn under_concurrent_writers() {
    let fixture = Fixture::new(DDL).await;
    let table = fixture.table("n").await;
    let stops: Vec<_> = (0..3)
        .map(|_| Arc::new(tokio::sync::Notify::new()))
        .collect();
    let writers: Vec<_> = (1..)
        .zip(&stops)
        .map(|(seed, stop)| spawn_writer(&fixture.url, seed, Arc::clone(stop)))
        .collect();
    let mut log = fixture.follow().await;
    let mut replicas = Vec::new();
    for _ in 0..15 {
        for _ in 0..10 {
            log.next().await;
        }
        let (visibility, rows) = fixture.snapshot(&table).await;
        replicas.push((visibility, rows));
    }
    for (stop, writer) in stops.iter().zip(writers) {
        stop.notify_one();
        writer.await.unwrap();
    }
    log.catch_up(&fixture.sql).await;
    let transactions = log.heard();
    let held = fixture.snapshot(&table).await.1;
    assert!(transactions.len() > 100);
    let mut overlap = 0;
    for (number, (visibility, mut rows)) in replicas.into_iter().enumerate() {
        for transaction in &transactions {
            // What the snapshot saw is in it: leaving it out must change nothing.
            if visibility.saw(transaction) {
                overlap += 1;
                continue;
            }
            for delta in &transaction.deltas {
                let _ = rows
                    .entry(delta.key.clone())
                    .or_default()
                    .merge(&delta.state);
            }
        }
        rows.retain(|_, row| row.existence().is_present());
        assert_eq!(rows, held, "the replica of snapshot {number}");
    }
    assert!(overlap > 0);
}

#[tokio::test]
async fn a_filter_chooses_rows_and_columns_are_chosen() {
    let fixture = Fixture::new(DDL).await;
    let table = fixture.table("n").await;
    fixture
        .run("update n set v = id % 10, t = case when id % 7 = 0 then null else t end")
        .await;
    let cases = [
        ("v = 3", "v = 3"),
        ("v > :low AND t < 't3'", "v > 5 and t < 't3'"),
        (
            "t IS NULL OR id IN (1, 2, 3)",
            "t is null or id in (1, 2, 3)",
        ),
        ("NOT (t LIKE 't1%')", "t not like 't1%'"),
    ];
    for (filter, sql) in cases {
        let parameters = [("low".to_owned(), Value::Integer(5))];
        let used: &[_] = if filter.contains(":low") {
            &parameters
        } else {
            &[]
        };
        let predicate = Predicate::parse(filter, &table, used).unwrap();
        let query = SnapshotQuery {
            table: table.id,
            filter: Some(Arc::new(predicate)),
            columns: vec![table.column_named("v").unwrap().id],
        };
        let mut snapshot = fixture.store.snapshot(query).await.unwrap();
        let mut rows: BTreeMap<RowKey, RowState> = BTreeMap::new();
        while let Some(chunk) = snapshot.chunks.recv().await {
            rows.extend(
                chunk
                    .unwrap()
                    .into_iter()
                    .map(|delta| (delta.key, delta.state)),
            );
        }
        let wanted = fixture
            .sql
            .query(&format!("select id from n where {sql}"), &[])
            .await
            .unwrap();
        let wanted: Vec<RowKey> = wanted
            .iter()
            .map(|row| key(i64::from(row.get::<_, i32>(0))))
            .collect();
        assert!(!wanted.is_empty());
        assert_eq!(rows.len(), wanted.len(), "{filter}");
        assert!(wanted.iter().all(|key| rows.contains_key(key)), "{filter}");
        assert!(
            rows.values().all(|row| row.cells().count() == 1),
            "{filter}"
        );
        assert_eq!(snapshot.rows_estimate, u64::try_from(rows.len()).unwrap());
    }
}

#[tokio::test]
async fn a_large_table_comes_in_chunks_of_bounded_size() {
    let fixture = Fixture::new(DDL).await;
    let table = fixture.table("n").await;
    fixture
        .run(
            "insert into n select i, i, repeat('x', 100) from generate_series(1001, 16000) i;
                 analyze n",
        )
        .await;
    let columns = table.registers().map(|column| column.id).collect();
    let query = SnapshotQuery {
        table: table.id,
        filter: None,
        columns,
    };
    let mut snapshot = fixture.store.snapshot(query).await.unwrap();
    assert_eq!(snapshot.rows_estimate, 15_500);
    let mut rows = 0;
    while let Some(chunk) = snapshot.chunks.recv().await {
        let chunk = chunk.unwrap();
        assert!(chunk.len() <= 2_000);
        rows += chunk.len();
    }
    assert_eq!(rows, 15_500);
    // One that is given up half-way does no harm.
    let query = SnapshotQuery {
        table: table.id,
        filter: None,
        columns: vec![],
    };
    drop(fixture.store.snapshot(query).await.unwrap());
    assert_eq!(fixture.snapshot(&table).await.1.len(), 15_500);
}
