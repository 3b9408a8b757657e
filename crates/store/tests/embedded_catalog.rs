//! The embedded store's schema is what SQLite's catalogue says, and numbers are never used twice.
mod common;

use anabranch_crdt::{Millis, Stamp, Value};
use anabranch_shape::schema::{ColumnType, ReferentialAction};
use anabranch_store::{StoreError, embedded::EmbeddedCore};
use common::Site;
use rusqlite::Connection;

const TABLES: &str = "
    CREATE TABLE project (id UUID PRIMARY KEY NOT NULL, name VARCHAR(20) NOT NULL DEFAULT 'new');
    CREATE TABLE task (
        tenant TEXT NOT NULL, number INTEGER NOT NULL,
        done BOOLEAN, price NUMERIC(10,2), at TIMESTAMPTZ, data BLOB,
        project UUID REFERENCES project ON DELETE SET NULL,
        doubled GENERATED ALWAYS AS (number * 2),
        PRIMARY KEY (number, tenant));
    CREATE VIEW seen AS SELECT * FROM task;
    INSERT INTO project VALUES ('0B6E0D1A-0000-4000-8000-00000000ABCD', 'old');
    INSERT INTO task(tenant, number, done, price) VALUES ('t', 1, 'true', 1.5);
";

#[test]
fn tables_columns_keys_and_references_are_read() {
    let site = Site::new(TABLES);
    let schema = site.core.schema();
    let names: Vec<&str> = schema
        .tables
        .iter()
        .map(|table| table.name.as_str())
        .collect();
    assert_eq!(names, ["project", "task"]);
    let task = schema.table_named("task").unwrap();
    let kinds: Vec<_> = task.columns.iter().map(|column| column.kind).collect();
    use ColumnType::{Boolean, Bytes, Integer, Numeric, Text, TimestampTz, Uuid};
    assert_eq!(
        kinds,
        [Text, Integer, Boolean, Numeric, TimestampTz, Bytes, Uuid]
    );
    let key: Vec<_> = task
        .key_columns()
        .map(|column| column.name.as_str())
        .collect();
    assert_eq!(key, ["number", "tenant"]);
    let foreign = &task.foreign_keys[0];
    assert_eq!(foreign.on_delete, ReferentialAction::SetNull);
    let project = schema.table_named("project").unwrap();
    assert_eq!(
        (foreign.parent, &foreign.parent_columns),
        (project.id, &project.primary_key)
    );
    assert!(project.columns[1].has_default && !project.columns[1].nullable);
}

#[test]
fn rows_from_before_the_installation_are_canonical_and_nobodys() {
    let mut site = Site::new(TABLES);
    let rows = site.rows("project");
    assert_eq!(
        rows[0].0.0,
        [Value::text("0b6e0d1a-0000-4000-8000-00000000abcd")]
    );
    let (_, stamp, value) = rows[0].1.cells().next().unwrap();
    assert_eq!((stamp, value), (Stamp::GENESIS, &Value::text("old")));
    let rows = site.rows("task");
    let values: Vec<&Value> = rows[0].1.cells().map(|(_, _, value)| value).collect();
    assert_eq!(values[..2], [&Value::Integer(1), &Value::text("1.5")]);
    assert_eq!(site.core.position().unwrap().0, 0, "nothing happened");
}

#[test]
fn a_table_without_a_primary_key_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE heap (x); CREATE TABLE t (id TEXT PRIMARY KEY)")
        .unwrap();
    let refused = EmbeddedCore::open(&path, Box::new(|| Millis(0))).unwrap_err();
    assert!(matches!(&refused, StoreError::Misconfigured(why) if why.contains("heap")));
    let refused = EmbeddedCore::install(&path, &["missing".to_owned()]).unwrap_err();
    assert!(refused.to_string().contains("missing"));
    EmbeddedCore::install(&path, &["t".to_owned()]).unwrap();
    let core = EmbeddedCore::open(&path, Box::new(|| Millis(0))).unwrap();
    assert_eq!(core.schema().tables.len(), 1);
}

#[test]
fn the_schema_is_followed_and_numbers_are_never_used_twice() {
    let mut site = Site::new(TABLES);
    let before = site.core.schema();
    let old = site.table("project");
    site.run("ALTER TABLE project ADD COLUMN colour TEXT DEFAULT 'red'");
    site.core.seal().unwrap();
    assert_eq!(site.core.schema().version, before.version + 1);
    let rows = site.rows("project");
    let colour = rows[0].1.cells().last().unwrap();
    assert_eq!(
        (colour.0.0, colour.1, colour.2),
        (3, Stamp::GENESIS, &Value::text("red"))
    );

    // SQLite drops no column that a trigger names, so a table is rebuilt to lose one.
    site.run(
        "PRAGMA foreign_keys = OFF;
         CREATE TABLE rebuilt (id UUID PRIMARY KEY NOT NULL, colour TEXT DEFAULT 'red');
         INSERT INTO rebuilt SELECT id, colour FROM project;
         DROP TABLE project; ALTER TABLE rebuilt RENAME TO project",
    );
    site.core.seal().unwrap();
    site.run("ALTER TABLE project ADD COLUMN name TEXT");
    site.core.seal().unwrap();
    let schema = site.core.schema();
    let numbers: Vec<u16> = schema
        .table_named("project")
        .unwrap()
        .columns
        .iter()
        .map(|column| column.id.0)
        .collect();
    assert_eq!(numbers, [1, 3, 4]);

    site.run("DROP TABLE task; DROP TABLE project");
    site.core.seal().unwrap();
    assert!(site.core.schema().tables.is_empty());
    site.run("CREATE TABLE project (id TEXT PRIMARY KEY); CREATE TABLE heap (x)");
    site.core.seal().unwrap();
    assert_eq!(
        site.core.schema().tables.len(),
        1,
        "a table without a key is left out"
    );
    assert_ne!(site.table("project"), old);
    site.run("INSERT INTO project VALUES ('captured')");
    assert_eq!(site.core.position().unwrap().0, 1);
}
