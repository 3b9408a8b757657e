//! The functions that the engine gives its connections, by the replica's own clock, and those that an
//! application gives its own.
mod common;

use anabranch_replica::register_functions;
use common::{START, Site};
use rusqlite::config::DbConfig;

#[test]
fn identifiers_are_written_as_the_engine_spells_them_and_ascend() {
    let mut site = Site::new(1);
    for _ in 0..50 {
        site.run(
            "INSERT INTO tasks(id, title) SELECT uuid_v7(), value FROM json_each('[1, 2, 3]')",
        );
    }
    let sql = "SELECT count(*) FROM (SELECT id, lag(id) OVER (ORDER BY rowid) AS before FROM tasks)
        WHERE before < id";
    let ascending = site
        .replica
        .connection()
        .query_row(sql, [], |row| row.get(0));
    assert_eq!(ascending, Ok(149_i64));
    // What is sealed spells them the same: nothing was rewritten.
    let written = site.text("SELECT max(id) FROM tasks").unwrap();
    let sealed = site.last().deltas;
    let is_last = |delta: &anabranch_crdt::Delta| delta.key == common::text_key(&written);
    assert!(sealed.iter().any(is_last));
    let ms = u64::from_str_radix(&written.replace('-', "")[..12], 16).unwrap();
    assert_eq!(ms, site.clock.now().0);
}

#[test]
fn clock_readings_come_from_the_replicas_clock_and_order_as_stamps_do() {
    let mut site = Site::new(1);
    let before = site
        .run("INSERT INTO numbered VALUES (1, 'x')")
        .map(|_| site.last().stamp.hlc);
    site.clock.advance(5);
    let read = |sql| {
        site.replica
            .connection()
            .query_row(sql, [], |row| row.get::<_, i64>(0))
    };
    let reading = read("SELECT hlc_now()").unwrap();
    assert!(reading > before.unwrap().to_i64());
    assert!(read("SELECT hlc_now()").unwrap() > reading);
    assert_eq!(
        read("SELECT hlc_millis(hlc_now())").unwrap().unsigned_abs(),
        START + 6
    );
    assert!(
        read("SELECT hlc_millis(-1)")
            .unwrap_err()
            .to_string()
            .contains("not a clock reading")
    );
    assert_eq!(site.text("SELECT hlc_millis(NULL)"), None);
}

#[test]
fn they_may_stand_in_a_schema_that_is_not_trusted() {
    let site = Site::new(1);
    let conn = site.foreign();
    register_functions(&conn).unwrap();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)
        .unwrap();
    conn.execute_batch(
        "CREATE TABLE draft(id TEXT PRIMARY KEY, made INTEGER);
         CREATE VIEW fresh AS SELECT uuid_v7() AS id, hlc_now() AS made;
         INSERT INTO draft SELECT * FROM fresh",
    )
    .unwrap();
    let id = common::text(&conn, "SELECT id FROM draft").unwrap();
    assert_eq!((id.len(), &id[14..15]), (36, "7"));
}
