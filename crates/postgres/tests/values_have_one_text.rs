//! Every value is the same in a snapshot, in the log and after a merge, whatever its type.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use anabranch_crdt::{ColumnId, RowKey, Value};
use anabranch_store::MergeOutcome;
use common::{Fixture, PATIENCE, delta, key, stamp, text, upload, write};

const DDL: &str = "
    create type mood as enum ('fine', 'so so');
    create domain positive as int check (value > 0);
    create type pair as (a int, b text);
    create table v (
        id int primary key, b boolean, i2 smallint, i8 bigint, f4 real, f8 double precision,
        n numeric, t text, c char(5), u uuid, y bytea, d date, ti time, ts timestamp,
        tz timestamptz, iv interval, j json, jb jsonb, m mood, p positive, a text[], ip inet,
        r int4range, pr pair, bits bit(3), v varchar(3)
    );";

const ROWS: [&str; 5] = [
    "true, -32768, 9223372036854775807, 0.1, 0.1, 'NaN', '', 'ab',
     'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '\\x00ff', 'infinity', '23:59:59.999999',
     '-infinity', '2026-01-02 03:04:05.6+09', '1 mon -3 days 04:05:06', '{ \"a\":1, \"a\":2 }',
     '{ \"a\":1, \"a\":2 }', 'so so', 7, '{a,\"b,c\",NULL,\"\\\"q\\\"\"}', '10.0.0.1', 'empty',
     row(null, 'x')::pair, '101', 'abc'",
    "false, 0, -1, 'NaN', '-Infinity', 'Infinity', E'line\\nbreak \\\\ \\'quoted\\'', '', null, '',
     '0001-01-01 BC', '00:00', '2026-01-01', 'infinity', '0', '[]', 'null', 'fine', 1, '{}',
     '10.0.0.0/8', '[1,5)', row(1, 'a,b')::pair, '000', 'x'",
    "null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null,
     null, null, null, null, null, null, null, null, null",
    "true, 1, 1, 1e-30, 1e300, 12345678901234567890.1234567890, 'NULL', 'x,y\\', null, '\\x5c', null,
     null, '0044-03-15 BC', '2026-06-01 00:00+00', '-1 year', '1', '1.50', null, 2,
     '{{1,2},{3,4}}', '::1', '(,)', row(null, null)::pair, '111', ''",
    "false, 1, 1, '-0', '-0', -0.00, 'h\u{e9}llo \u{1f600}', 'abcde', null, null, '2026-02-28',
     '12:00:00.5', null, null, 'PT1S', '\"s\"', '{\"k\": [1, 2.0, true, null]}', null, null, null, null, null,
     null, null, null",
];

#[tokio::test]
async fn special_values_come_through_snapshot_log_and_merge_alike() {
    let fixture = Fixture::new(DDL).await;
    let mut log = fixture.follow().await;
    let table = fixture.table("v").await;
    // The writer's own settings must not show in what is read.
    fixture
        .run(
            "set timezone = 'Asia/Tokyo'; set datestyle = 'German'; set bytea_output = 'escape';
                 set extra_float_digits = 0; set intervalstyle = 'sql_standard'",
        )
        .await;
    for (number, row) in ROWS.iter().enumerate() {
        fixture
            .run(&format!("insert into v values ({number}, {row})"))
            .await;
    }
    log.catch_up(&fixture.sql).await;
    let told = log.present(&table);
    assert_eq!(told, fixture.snapshot(&table).await.1);
    let at = |row: i64, column: u16| told[&key(row)].value(ColumnId(column)).unwrap().clone();
    assert_eq!(at(0, 2), Value::Integer(1));
    assert_eq!(at(0, 5), Value::real(0.1));
    assert_eq!(at(1, 5), text("NaN"));
    assert_eq!(at(0, 11), Value::Blob(vec![0, 255]));
    assert_eq!(at(0, 15), text("2026-01-01 18:04:05.6+00"));
    assert_eq!(at(0, 17), text("{ \"a\":1, \"a\":2 }"));
    assert_eq!(at(0, 18), text("{\"a\": 2}"));
    assert_eq!(at(3, 24), text("(,)"), "a composite of NULLs is not NULL");
    assert_eq!(at(2, 24), Value::Null);

    // A replica writes the same values back under other keys: the store holds just what was sent.
    let made = stamp(1, 5);
    let copies = told.values().zip(100..).map(|(row, id)| {
        let cells: Vec<(u16, Value)> = row
            .cells()
            .map(|(column, _, value)| (column.0, value.clone()))
            .collect();
        delta(&table, key(id), write(made, &cells))
    });
    let outcomes = fixture
        .merge(vec![upload(1, 1, made, copies.collect())])
        .await;
    assert_eq!(outcomes, [MergeOutcome::Merged]);
    log.catch_up(&fixture.sql).await;
    for (row, id) in told.values().zip(100..) {
        let copy = log.row(&table, &key(id));
        for (column, _, value) in row.cells() {
            assert_eq!(copy.value(column), Some(value));
            assert_eq!(
                copy.clock().register(column),
                Some(made),
                "{value:?} was changed"
            );
        }
    }
    assert_eq!(log.present(&table), fixture.snapshot(&table).await.1);
}

#[tokio::test]
async fn keys_of_every_kind_address_their_rows() {
    let fixture = Fixture::new(
        "
        create table k (u uuid, t text, c char(4), b boolean, n numeric(6,2), z timestamptz,
                        y bytea, v text, primary key (u, t, c, b, n, z, y));",
    )
    .await;
    let mut log = fixture.follow().await;
    let table = fixture.table("k").await;
    fixture
        .run(
            "set timezone = 'Asia/Tokyo'; set bytea_output = 'escape';
        insert into k values ('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 'a,\\b', 'x', true, 1.5,
                              '2026-01-01 09:00+09', '\\x2c5c', 'one')",
        )
        .await;
    log.catch_up(&fixture.sql).await;
    let id = RowKey(vec![
        text("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        text("a,\\b"),
        text("x   "),
        Value::Integer(1),
        text("1.50"),
        text("2026-01-01 00:00:00+00"),
        Value::Blob(b",\\".to_vec()),
    ]);
    assert_eq!(log.row(&table, &id).value(ColumnId(8)), Some(&text("one")));
    let later = common::future_stamp(1, 1000);
    let edit = delta(&table, id.clone(), write(later, &[(8, text("two"))]));
    let outcomes = fixture.merge(vec![upload(1, 1, later, vec![edit])]).await;
    assert_eq!(outcomes, [MergeOutcome::Merged]);
    fixture.run("update k set v = v || '!'").await;
    log.catch_up(&fixture.sql).await;
    assert_eq!(log.row(&table, &id).value(ColumnId(8)), Some(&text("two!")));
    assert_eq!(log.present(&table), fixture.snapshot(&table).await.1);

    // Another spelling of a key would be another row to a replica, and the same to Postgres.
    let mut other = id.clone();
    other.0[4] = text("1.5");
    let edit = delta(&table, other, write(later, &[(8, text("three"))]));
    let outcomes = fixture.merge(vec![upload(1, 2, later, vec![edit])]).await;
    assert!(
        common::rejection(&outcomes[0])
            .reason
            .contains("not how Postgres writes the key")
    );
}

#[tokio::test]
async fn a_large_value_that_an_update_leaves_alone_is_still_told() {
    let fixture = Fixture::new(
        "create table big (id int primary key, body text, n int);
        alter table big alter body set storage external;",
    )
    .await;
    let mut log = fixture.follow().await;
    let table = fixture.table("big").await;
    let body = "x".repeat(50_000);
    fixture
        .run(&format!("insert into big values (1, '{body}', 1)"))
        .await;
    fixture
        .run("update big set n = 2; update big set id = 5")
        .await;
    log.catch_up(&fixture.sql).await;
    let row = log.row(&table, &key(5));
    assert_eq!(row.value(ColumnId(2)), Some(&text(&body)));
    assert_eq!(row.value(ColumnId(3)), Some(&Value::Integer(2)));
    assert_eq!(log.present(&table), fixture.snapshot(&table).await.1);
}

#[tokio::test]
async fn a_changed_table_is_told_before_its_rows() {
    let fixture = Fixture::new(
        "create table s (id int primary key, a text, b text);
        insert into s values (1, 'a', 'b');",
    )
    .await;
    let mut log = fixture.follow().await;
    let before = fixture.schema().await;
    fixture
        .run(
            "alter table s drop column a; alter table s add column c int default 7;
                 alter table s rename column b to bb; alter table s alter column bb type varchar(9);
                 insert into s values (2, 'two', 8); update s set c = 9 where id = 1",
        )
        .await;
    let changed = loop {
        match tokio::time::timeout(PATIENCE, log.next()).await.unwrap() {
            anabranch_store::LogEvent::SchemaChanged(schema) => break schema,
            anabranch_store::LogEvent::Transaction(early) => panic!("{early:?} came before"),
            anabranch_store::LogEvent::Idle(_) => {}
        }
    };
    assert!(changed.version > before.version);
    let names: Vec<_> = changed.tables[0]
        .columns
        .iter()
        .map(|c| (c.id.0, c.name.as_str()))
        .collect();
    assert_eq!(names, [(1, "id"), (3, "bb"), (4, "c")]);
    log.catch_up(&fixture.sql).await;
    let table = fixture.table("s").await;
    assert_eq!(
        log.row(&table, &key(2)).value(ColumnId(4)),
        Some(&Value::Integer(8))
    );
    assert_eq!(
        log.row(&table, &key(1)).value(ColumnId(4)),
        Some(&Value::Integer(9))
    );
    // What the replica holds of the dropped column is no longer anybody's concern.
    let kept = |row: &anabranch_crdt::RowState| row.project(|column| column != ColumnId(2));
    let heard: Vec<_> = log.present(&table).values().map(kept).collect();
    let held: Vec<_> = fixture.snapshot(&table).await.1.into_values().collect();
    assert_eq!(heard, held);
}
