//! What merging costs beside SQLite alone: 100,000 rows of a table with a UUID key and four columns
//! in batches of 10,000, against guarded upserts of the same rows in the same run.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{path::Path, time::Duration};

use anabranch_crdt::{ColumnId, Hlc, Millis, ReplicaId, RowKey, RowState, Stamp, TableId, Value};
use anabranch_protocol::{Change, Cursor, Epoch, Position, ShapeRequest, SubscriptionSet};
use anabranch_replica::{OpenOptions, Replica};
use anabranch_shape::schema::{Column, ColumnType, Schema, Table};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use rusqlite::{Connection, params};

const TABLE: TableId = TableId(1);
const BATCH: usize = 10_000;
const COLUMNS: u16 = 4;

/// The rows' order is random, as the keys are; the same in every run.
fn keys(count: usize) -> Vec<String> {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    (0..count)
        .map(|_| {
            let (a, b) = (next(), next());
            format!(
                "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
                a >> 32,
                (a >> 16) & 0xffff,
                a & 0xfff,
                b >> 52,
                b & 0xffff_ffff_ffff
            )
        })
        .collect()
}

fn stamp(ms: u64) -> Stamp {
    Stamp::new(Hlc::new(Millis(ms), 0).unwrap(), ReplicaId([7; 16]))
}

fn changes(keys: &[String], stamp: Stamp) -> Vec<Change> {
    let shapes = SubscriptionSet(1);
    let state = |key: &String| {
        let mut state = RowState::live(stamp);
        for column in 2..COLUMNS + 2 {
            state.set(
                ColumnId(column),
                stamp,
                Value::Text(format!("{column} of {}", &key[..8])),
            );
        }
        state
    };
    keys.iter()
        .map(|key| Change {
            table: TABLE,
            key: RowKey(vec![Value::text(key)]),
            shapes,
            state: state(key),
        })
        .collect()
}

fn schema() -> Schema {
    let column = |id: u16| Column {
        id: ColumnId(id),
        name: format!("c{id}"),
        kind: if id == 1 {
            ColumnType::Uuid
        } else {
            ColumnType::Text
        },
        declared_type: "text".to_owned(),
        nullable: id != 1,
        has_default: false,
        bytewise_order: true,
    };
    let table = Table {
        id: TABLE,
        namespace: "public".to_owned(),
        name: "t".to_owned(),
        columns: (1..COLUMNS + 2).map(column).collect(),
        primary_key: vec![ColumnId(1)],
        foreign_keys: Vec::new(),
    };
    Schema {
        version: 1,
        tables: vec![table],
    }
}

fn replica(folder: &Path) -> Replica {
    let mut replica = Replica::open(folder.join("replica.db"), OpenOptions::system()).unwrap();
    replica.adopt_schema(schema()).unwrap();
    let shape = ShapeRequest::Named {
        name: "t".to_owned(),
        parameters: Vec::new(),
    };
    let id = replica.subscribe(&shape).unwrap();
    replica.finish_snapshot(id, Cursor::default()).unwrap();
    replica
}

fn merge(replica: &mut Replica, batches: Vec<Vec<Change>>) {
    for (at, batch) in (1..).zip(batches) {
        let cursor = Cursor {
            epoch: Epoch(0),
            position: Position(at),
        };
        replica
            .merge_transaction(cursor, SubscriptionSet(1), Vec::new(), batch)
            .unwrap();
    }
}

fn batches(keys: &[String], ms: u64) -> Vec<Vec<Change>> {
    keys.chunks(BATCH)
        .map(|keys| changes(keys, stamp(ms)))
        .collect()
}

/// The floor: the same table with one clock in the row, and an upsert guarded by it.
fn plain(folder: &Path) -> Connection {
    let conn = Connection::open(folder.join("plain.db")).unwrap();
    conn.execute_batch(
        "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
         PRAGMA cache_size = -65536;
         CREATE TABLE t(c1 TEXT PRIMARY KEY NOT NULL, c2 TEXT, c3 TEXT, c4 TEXT, c5 TEXT, hlc INTEGER);",
    )
    .unwrap();
    conn
}

fn upsert(conn: &mut Connection, batches: &[Vec<Change>]) {
    for batch in batches {
        let tx = conn.transaction().unwrap();
        let mut statement = tx
            .prepare_cached(
                "INSERT INTO t VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT(c1) DO UPDATE SET
                 c2 = excluded.c2, c3 = excluded.c3, c4 = excluded.c4, c5 = excluded.c5,
                 hlc = excluded.hlc WHERE excluded.hlc > hlc",
            )
            .unwrap();
        for change in batch {
            let Value::Text(key) = &change.key.0[0] else {
                continue;
            };
            let text = |at: u16| match change.state.value(ColumnId(at)) {
                Some(Value::Text(text)) => text.as_str(),
                _ => "",
            };
            let hlc = change.state.clock().newest().to_i64();
            statement
                .execute(params![key, text(2), text(3), text(4), text(5), hlc])
                .unwrap();
        }
        drop(statement);
        tx.commit().unwrap();
    }
}

fn bench(criterion: &mut Criterion) {
    // Cargo's test run only wants to know that it works.
    let is_test = std::env::args().any(|argument| argument == "--test");
    let rows = if is_test { 1_000 } else { 100_000 };
    let keys = keys(rows);
    let mut shuffled = keys.clone();
    shuffled.sort_unstable_by_key(|key| key.chars().rev().collect::<String>());
    let mut group = criterion.benchmark_group("100,000 rows in batches of 10,000");
    group.sample_size(10).warm_up_time(Duration::from_millis(1));
    let cases = [
        ("fresh", None, 2),
        ("all win", Some(1), 2),
        ("all lose", Some(3), 2),
    ];
    for (name, held, incoming) in cases {
        group.bench_function(format!("{name}: guarded upserts"), |bencher| {
            let setup = || {
                let folder = tempfile::tempdir().unwrap();
                let mut conn = plain(folder.path());
                if let Some(held) = held {
                    upsert(&mut conn, &batches(&keys, held));
                }
                (folder, conn, batches(&shuffled, incoming))
            };
            let run = |(folder, mut conn, batches): (_, Connection, Vec<_>)| {
                upsert(&mut conn, &batches);
                (folder, conn)
            };
            bencher.iter_batched(setup, run, BatchSize::PerIteration);
        });
        group.bench_function(format!("{name}: merge"), |bencher| {
            let setup = || {
                let folder = tempfile::tempdir().unwrap();
                let mut replica = replica(folder.path());
                if let Some(held) = held {
                    merge(&mut replica, batches(&keys, held));
                }
                (folder, replica, batches(&shuffled, incoming))
            };
            let run = |(folder, mut replica, batches): (_, Replica, _)| {
                merge(&mut replica, batches);
                (folder, replica)
            };
            bencher.iter_batched(setup, run, BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
