//! A shape's condition chooses the same rows in Rust and in Postgres, for every kind of column and
//! every special value.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use std::{collections::BTreeSet, sync::Arc};

use anabranch_crdt::RowKey;
use anabranch_shape::Predicate;
use anabranch_store::{SnapshotQuery, Store as _};
use common::Fixture;

/// A column's name and type, and literals of it. Those of `real` are quoted: bare, Postgres would take
/// them for wider than the column.
const COLUMNS: [(&str, &str, &[&str]); 12] = [
    ("b", "boolean", &["true", "false"]),
    (
        "i",
        "bigint",
        &[
            "-9223372036854775808",
            "-1",
            "0",
            "7",
            "9223372036854775807",
        ],
    ),
    (
        "f",
        "double precision",
        &["'NaN'", "'-Infinity'", "'Infinity'", "0", "0.1", "-1e300"],
    ),
    (
        "g",
        "real",
        &["'NaN'", "'-Infinity'", "'0'", "'0.1'", "'16777217'"],
    ),
    (
        "n",
        "numeric",
        &[
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "0.00",
            "1.5",
            "1.50",
            "-12345678901234567890.123",
            "0.1",
        ],
    ),
    (
        "t",
        "text collate \"C\"",
        &["''", "'a'", "'B'", "'a,b'", "'\u{e9}'", "'a_c'", "'100%'"],
    ),
    (
        "u",
        "uuid",
        &[
            "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
            "'00000000-0000-0000-0000-000000000000'",
        ],
    ),
    ("y", "bytea", &["'\\x'", "'\\x00'", "'\\xff'"]),
    (
        "d",
        "date",
        &["'infinity'", "'-infinity'", "'2026-02-28'", "'1999-12-31'"],
    ),
    (
        "h",
        "time",
        &["'00:00'", "'23:59:59.999999'", "'12:00:00.5'"],
    ),
    (
        "s",
        "timestamp",
        &["'infinity'", "'2026-01-02 03:04:05.6'", "'-infinity'"],
    ),
    (
        "z",
        "timestamptz",
        &[
            "'infinity'",
            "'2026-01-02 03:04:05.6+09'",
            "'2026-01-01 18:04:05.6+00'",
        ],
    ),
];

async fn fixture() -> Fixture {
    let definitions: Vec<String> = COLUMNS
        .iter()
        .map(|(name, kind, _)| format!("{name} {kind}"))
        .collect();
    let ddl = format!(
        "create table v (id int primary key, {})",
        definitions.join(", ")
    );
    let fixture = Fixture::new(&ddl).await;
    fixture.run("insert into v values (0)").await;
    let mut id = 0;
    for (name, _, literals) in COLUMNS {
        for literal in literals {
            id += 1;
            fixture
                .run(&format!(
                    "insert into v (id, {name}) values ({id}, {literal})"
                ))
                .await;
        }
    }
    fixture
}

fn conditions() -> Vec<String> {
    let mut conditions = Vec::new();
    for (name, _, literals) in COLUMNS {
        for literal in literals {
            for operator in ["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM"] {
                conditions.push(format!("{name} {operator} {literal}"));
            }
            conditions.push(format!("NOT ({name} < {literal}) OR {name} IS NULL"));
        }
        conditions.push(format!("{name} IN ({})", literals.join(", ")));
        conditions.push(format!("{name} NOT IN ({}, NULL)", literals[0]));
        conditions.push(format!(
            "{name} BETWEEN {} AND {}",
            literals[0], literals[1]
        ));
    }
    for pattern in ["'a%'", "'%'", "'_'", "'a\\_c'", "'100\\%'", "''"] {
        conditions.push(format!("t LIKE {pattern}"));
        conditions.push(format!("t NOT LIKE {pattern}"));
    }
    conditions
}

#[tokio::test]
async fn for_every_kind_and_operator() {
    let fixture = fixture().await;
    let table = fixture.table("v").await;
    let rows = fixture.snapshot(&table).await.1;
    let mut compared = 0;
    for condition in conditions() {
        // What the language does not take, no store ever sees.
        let Ok(predicate) = Predicate::parse(&condition, &table, &[]) else {
            continue;
        };
        compared += 1;
        let matching = rows
            .iter()
            .filter(|(_, row)| predicate.matches(&|id| row.value(id)));
        let here: BTreeSet<RowKey> = matching.map(|(key, _)| key.clone()).collect();

        let filter = Some(Arc::new(predicate));
        let query = SnapshotQuery {
            table: table.id,
            filter,
            columns: vec![],
        };
        let mut snapshot = fixture.store.snapshot(query).await.unwrap();
        let mut there = BTreeSet::new();
        while let Some(chunk) = snapshot.chunks.recv().await {
            there.extend(chunk.unwrap().into_iter().map(|delta| delta.key));
        }
        let written = format!("select id::bigint from v where {condition}");
        let written = fixture.sql.query(&written, &[]).await.unwrap();
        let written: BTreeSet<RowKey> = written.iter().map(|row| common::key(row.get(0))).collect();
        assert_eq!(here, there, "{condition}");
        assert_eq!(there, written, "{condition}");
    }
    assert!(compared > 300, "only {compared} conditions were compared");
}
