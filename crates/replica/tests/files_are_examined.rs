//! A file whose rows, clocks and triggers no longer agree is examined, explained and repaired; a
//! backup of a live file is a replica of its own.
mod common;

use anabranch_protocol::Seq;
use anabranch_replica::{Finding, Replica, Trouble, examine};
use common::{Clock, NUMBERED, Site, count, open_foreign, options};
use rusqlite::config::DbConfig;

fn found(trouble: Trouble, table: Option<&str>, count: u64) -> Finding {
    Finding {
        trouble,
        table: table.map(str::to_owned),
        count,
    }
}

#[test]
fn a_sound_file_has_no_findings() {
    let mut site = Site::new(1);
    site.run("INSERT INTO numbered VALUES (1, 'a'), (2, 'b'); DELETE FROM numbered WHERE id = 2");
    // Written and not sealed yet.
    site.foreign()
        .execute_batch("INSERT INTO numbered VALUES (3, 'c'); DELETE FROM numbered WHERE id = 1")
        .unwrap();
    assert_eq!(examine(&site.path, true).unwrap(), []);
    assert_eq!(site.replica.seal().unwrap(), Some(Seq(2)));
}

#[test]
fn what_was_written_behind_the_engines_back_is_found_and_repaired() {
    let mut site = Site::new(1);
    site.run("INSERT INTO numbered VALUES (1, 'a'), (2, 'b')");
    let path = site.path.clone();
    drop(site.replica);
    let behind = open_foreign(&path);
    behind
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)
        .unwrap();
    behind
        .execute_batch(
            "INSERT INTO numbered VALUES (3, 'unnoticed'); DELETE FROM numbered WHERE id = 2;
             DROP TRIGGER anabranch_1_insert;
             INSERT INTO anabranch_meta VALUES ('numbers', zeroblob(48))",
        )
        .unwrap();
    let wrong: Vec<u8> = [0_i64, 0, 0, 9, 3, 0].map(i64::to_be_bytes).concat();
    behind
        .execute(
            "UPDATE anabranch_meta SET value = ?1 WHERE name = 'numbers'",
            [wrong],
        )
        .unwrap();
    drop(behind);
    let expected = [
        found(Trouble::Triggers, None, 1),
        found(Trouble::RowWithoutClock, Some("numbered"), 1),
        found(Trouble::ClockWithoutRow, Some("numbered"), 1),
        found(Trouble::OutboxCount, None, 1),
    ];
    assert_eq!(examine(&path, false).unwrap(), expected);
    assert_eq!(
        examine(&path, true).unwrap(),
        expected,
        "looking changes nothing"
    );
    assert_eq!(examine(&path, true).unwrap(), []);
    let replica = Replica::open(&path, options(&Clock::new(), 1)).unwrap();
    assert_eq!(
        count(replica.connection(), "numbered WHERE id = 2"),
        1,
        "what a pending write says is given back"
    );
    let pending = replica.pending(Seq(1), usize::MAX).unwrap();
    assert_eq!(pending[0].deltas[0].table, NUMBERED);
    assert_eq!(replica.status().unwrap().pending, 2);
}

#[test]
fn a_damaged_file_is_told_and_not_touched() {
    let site = Site::new(1);
    for id in 0..2_000 {
        site.replica
            .connection()
            .execute("INSERT INTO numbered VALUES (?1, 'some text')", [id])
            .unwrap();
    }
    let path = site.path.clone();
    drop(site.replica);
    let mut bytes = std::fs::read(&path).unwrap();
    // Whole pages, behind those that every look at the file needs.
    let pages = bytes.len() / 8_192;
    bytes[pages / 2 * 8_192..(pages / 2 + 4) * 8_192].fill(0xa5);
    std::fs::write(&path, &bytes).unwrap();
    let findings = examine(&path, true).unwrap();
    assert_eq!(findings[0].trouble, Trouble::Damaged);
    assert_eq!(findings[0].trouble.repair(), None);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_backup_of_a_live_file_opens_as_a_replica_of_its_own() {
    let mut site = Site::new(1);
    site.run("INSERT INTO numbered VALUES (1, 'a')");
    let path = site.path.with_file_name("backup.db");
    site.replica.backup_to(&path).unwrap();
    site.run("INSERT INTO numbered VALUES (2, 'later')");
    let backup = Replica::open(&path, options(&Clock::new(), 2)).unwrap();
    assert_ne!(backup.id(), site.replica.id());
    assert_eq!(count(backup.connection(), "numbered"), 1);
    assert_eq!(backup.pending(Seq(0), usize::MAX).unwrap().len(), 1);
    let refused = site.replica.backup_to(&path).unwrap_err();
    assert!(refused.to_string().contains("exists"));
}
