//! A file keeps everything over a restart, and a file that is not a replica is left as it is.
mod common;

use anabranch_protocol::{Seq, SubscriptionSet};
use anabranch_replica::{OpenError, Replica};
use common::{Clock, Site, change, cursor, open_foreign, options, shape};

#[test]
fn outbox_clock_identity_and_schema_survive_a_restart() {
    let mut site = Site::new(1);
    site.run("INSERT INTO numbered VALUES (1, 'one')");
    let id = site.keep_everything();
    let before = site.pending();
    let foreign = site.foreign();
    // Written while no engine runs, and with the clock gone backwards.
    foreign
        .execute("INSERT INTO numbered VALUES (2, 'two')", [])
        .unwrap();
    let path = site.path.clone();
    let early = Clock::new();
    early.set(1_000);
    let replica = Replica::open(&path, options(&early, 7)).unwrap();
    assert_eq!(replica.id(), site.replica.id());
    assert_eq!(replica.schema().tables.len(), 4);
    let after = replica.pending(Seq(0), usize::MAX).unwrap();
    assert_eq!(after[0], before[0]);
    assert_eq!(after.len(), 2);
    assert!(after[1].stamp > after[0].stamp);
    assert_eq!(replica.first_pending().unwrap(), Seq(1));
    assert_eq!(replica.subscriptions().unwrap()[0].id, id);
    // The process that was open all along sees what the other has sealed.
    assert_eq!(
        site.run("INSERT INTO numbered VALUES (3, 'three')"),
        Some(Seq(3))
    );
}

#[test]
fn pending_is_handed_out_in_pieces() {
    let mut site = Site::new(1);
    for row in 0..10 {
        site.run(&format!("INSERT INTO numbered VALUES ({row}, 'x')"));
    }
    assert_eq!(site.replica.pending(Seq(0), 1).unwrap().len(), 1);
    let some = site.replica.pending(Seq(4), 200).unwrap();
    assert_eq!(some[0].seq, Seq(5));
    assert!(some.len() > 1 && some.len() < 6);
}

#[test]
fn a_file_of_another_program_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("theirs.db");
    open_foreign(&path)
        .execute_batch("CREATE TABLE t(x)")
        .unwrap();
    let before = std::fs::read(&path).unwrap();
    let refused = Replica::open(&path, options(&Clock::new(), 1));
    assert!(matches!(
        refused,
        Err(OpenError::Foreign {
            what: "the database of another program",
            ..
        })
    ));
    assert_eq!(std::fs::read(&path).unwrap(), before);

    let path = directory.path().join("letter.txt");
    std::fs::write(
        &path,
        "Dear Sir or Madam, this is a letter and no database.".repeat(20),
    )
    .unwrap();
    let refused = Replica::open(&path, options(&Clock::new(), 1));
    assert!(matches!(
        refused,
        Err(OpenError::Foreign {
            what: "not a SQLite file",
            ..
        })
    ));

    let path = directory
        .path()
        .join("no such directory")
        .join("replica.db");
    let refused = Replica::open(&path, options(&Clock::new(), 1));
    assert!(matches!(refused, Err(OpenError::Unopenable { .. })));
}

#[test]
fn a_newer_format_is_refused() {
    let site = Site::new(1);
    site.foreign()
        .execute(
            "UPDATE anabranch_meta SET value = 99 WHERE name = 'format'",
            [],
        )
        .unwrap();
    let refused = Replica::open(&site.path, options(&Clock::new(), 1)).unwrap_err();
    assert!(matches!(refused, OpenError::NewerFormat { found: 99, .. }));
    assert!(refused.to_string().contains("upgrade"));
}

#[test]
fn a_lock_held_by_another_program_is_an_error_and_not_a_loss() {
    let mut site = Site::new(1);
    let foreign = site.foreign();
    foreign
        .execute_batch("BEGIN IMMEDIATE; INSERT INTO numbered VALUES (1, 'theirs')")
        .unwrap();
    let refused = site.replica.seal().unwrap_err();
    assert!(refused.to_string().contains("another program is writing"));
    assert!(site.replica.subscribe(&shape("x")).is_err());
    foreign.execute_batch("COMMIT").unwrap();
    assert_eq!(site.replica.seal().unwrap(), Some(Seq(1)));
}

#[test]
fn a_file_of_an_older_format_is_refused_and_says_so() {
    let site = Site::new(1);
    let path = site.path.clone();
    drop(site.replica);
    let set_format = "UPDATE anabranch_meta SET value = 1 WHERE name = 'format'";
    open_foreign(&path).execute(set_format, []).unwrap();
    let refused = Replica::open(&path, options(&Clock::new(), 1));
    assert!(
        matches!(
            refused,
            Err(OpenError::OlderFormat {
                found: 1,
                known: 2,
                ..
            })
        ),
        "{refused:?}"
    );
}

#[test]
fn a_clock_of_one_replica_too_many_is_refused_and_nothing_is_lost() {
    let mut site = Site::new(1);
    let all = SubscriptionSet::only(site.keep_everything());
    site.run("INSERT INTO numbered VALUES (1, 'mine')");
    let full = "INSERT INTO anabranch_replica(n, id) VALUES (?1, zeroblob(16))";
    let numbers = i64::from(anabranch_replica::limits::REPLICAS_MAX);
    site.foreign().execute(full, [numbers]).unwrap();
    let mut author = Site::new(9);
    author.run("INSERT INTO numbered VALUES (5, 'theirs')");
    let changes = vec![change(&author.last().deltas[0], all)];
    let refused = site
        .replica
        .merge_transaction(cursor(1), all, Vec::new(), changes)
        .unwrap_err();
    assert!(refused.to_string().contains("start a new file"));
    assert_eq!(site.count("numbered"), 1);
    assert_eq!(site.pending().len(), 1);
}
