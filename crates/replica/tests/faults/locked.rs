//! Another process holds the write lock.

use std::{
    env,
    io::{Read, Write},
    process::{Command, Stdio},
};

use anabranch_protocol::{Seq, SubscriptionSet};
use anabranch_replica::ReplicaError;
use rusqlite::Connection;

use crate::{
    common::{Site, cursor},
    worker::told,
};

const FILE: &str = "ANABRANCH_TEST_LOCKED_FILE";

#[test]
fn locks_a_file_until_told() {
    // Nothing to do where this is not the other process.
    let Some(file) = env::var_os(FILE) else {
        return;
    };
    let conn = Connection::open(file).unwrap();
    conn.execute_batch("BEGIN IMMEDIATE; INSERT INTO numbered VALUES (7, 'theirs')")
        .unwrap();
    std::io::stderr().write_all(b"locked").unwrap();
    let mut word = [0; 1];
    std::io::stdin().read_exact(&mut word).unwrap();
    conn.execute_batch("COMMIT").unwrap();
}

#[test]
fn a_locked_file_is_an_error_and_nothing_is_lost() {
    let mut site = Site::new(1);
    let id = site.keep_everything();
    site.run("INSERT INTO numbered VALUES (0, 'before')");
    let before = site.everything();
    let mut other = Command::new(env::current_exe().unwrap())
        .args(["--exact", "locked::locks_a_file_until_told", "--nocapture"])
        .env(FILE, &site.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 6];
    other
        .stderr
        .as_mut()
        .unwrap()
        .read_exact(&mut said)
        .unwrap();
    assert_eq!(&said, b"locked");

    let sql = "INSERT INTO numbered VALUES (2, 'ours')";
    let refused = site
        .replica
        .transaction(|tx| tx.execute_batch(sql))
        .unwrap_err();
    assert!(
        refused.to_string().contains("another program is writing"),
        "{refused}"
    );
    let live = SubscriptionSet::only(id);
    let merge = |site: &mut Site| -> Result<(), ReplicaError> {
        let changes = told(1, live);
        site.replica
            .merge_transaction(cursor(1), live, Vec::new(), changes)
    };
    assert!(
        merge(&mut site)
            .unwrap_err()
            .to_string()
            .contains("another program")
    );
    assert!(site.replica.seal().is_err());
    // Reading goes on.
    assert_eq!(site.count("numbered"), 1);

    other.stdin.take().unwrap().write_all(b".").unwrap();
    assert!(other.wait().unwrap().success());
    merge(&mut site).unwrap();
    assert_eq!(site.run(sql), Some(Seq(3)));
    // Before, the service's, the other program's, and this one.
    assert_eq!(before["numbered"].len(), 1);
    assert_eq!(site.everything()["numbered"].len(), 4);
}
