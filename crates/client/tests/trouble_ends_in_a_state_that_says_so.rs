//! A driver whose replica may not or cannot go on stops trying, says why, and goes on when asked.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use anabranch_client::{Client, ClientOptions, ConnectionState, DriveError, Driver, RetryPolicy};
use anabranch_crdt::{Hlc, Millis};
use anabranch_protocol::{
    ClientFrame, Seq, ServerFrame, limits::BROKEN_SESSIONS_MAX, session::ClientPhase,
};
use anabranch_replica::{Fingerprint, OpenOptions, Principal, Replica, ReplicaError, SignOut};
use anabranch_shape::schema::Schema;

fn open(path: &std::path::Path, principal: Principal) -> Replica {
    let options = OpenOptions {
        principal,
        ..OpenOptions::system()
    };
    Replica::open(path, options).unwrap()
}

fn welcome() -> ServerFrame {
    ServerFrame::Welcome {
        version: 1,
        server_time: Millis(1_700_000_000_000),
        drift_max_ms: u64::MAX / 2,
        merged_through: Seq(0),
        horizon: Hlc::ZERO,
        credit_transactions: 10,
        schema: Some(Schema::default()),
    }
}

fn greet(driver: &mut Driver, replica: &mut Replica) {
    let due = driver.poll_timeout().unwrap();
    assert!(driver.poll_connect(due));
    driver.connected(replica).unwrap();
    let hello = driver.poll_frame(replica).unwrap();
    assert!(matches!(hello, Some(ClientFrame::Hello { .. })));
}

#[test]
fn nothing_is_sent_for_who_has_signed_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.db");
    let ann = Principal::Is(Fingerprint::of("here", "ann"));
    let (mut replica, mut driver) = (open(&path, ann), Driver::new(""));
    greet(&mut driver, &mut replica);
    driver.receive(&mut replica, welcome()).unwrap();
    // By another window.
    open(&path, ann).sign_out(SignOut::Discard).unwrap();
    let error = driver.poll_frame(&mut replica).unwrap_err();
    assert!(matches!(
        error,
        DriveError::Replica(ReplicaError::SignedOut)
    ));
    driver.failed(Millis(0), 0, &error);
    let ClientPhase::Stopped { reason, .. } = driver.phase() else {
        panic!("{:?}", driver.phase());
    };
    assert!(reason.contains("signed out"), "{reason}");
    driver.retry_now(Millis(0));
    assert!(driver.poll_connect(Millis(0)));
    assert!(driver.connected(&mut replica).is_err());
}

#[test]
fn a_file_that_takes_nothing_in_is_not_tried_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.db");
    let (mut replica, mut driver) = (open(&path, Principal::Nobody), Driver::new(""));
    // A table of the application's own is where the schema wants one.
    let own = "CREATE TABLE note(x)";
    replica.connection().execute_batch(own).unwrap();
    let table = anabranch_shape::schema::Table {
        id: anabranch_crdt::TableId(1),
        namespace: "public".into(),
        name: "note".into(),
        columns: vec![],
        primary_key: vec![],
        foreign_keys: vec![],
        delete: Default::default(),
    };
    let mut unwelcome = welcome();
    if let ServerFrame::Welcome { schema, .. } = &mut unwelcome {
        *schema = Some(Schema {
            version: 1,
            tables: vec![table],
        });
    }
    let mut tries = 0;
    while driver.poll_timeout().is_some() {
        greet(&mut driver, &mut replica);
        let error = driver.receive(&mut replica, unwelcome.clone()).unwrap_err();
        driver.failed(Millis(0), 0, &error);
        tries += 1;
    }
    assert_eq!(tries, BROKEN_SESSIONS_MAX);
    driver.retry_now(Millis(0));
    greet(&mut driver, &mut replica);
    driver.receive(&mut replica, welcome()).unwrap();
    assert_eq!(*driver.phase(), ClientPhase::Open);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_gives_up_where_it_was_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let replica = open(&folder.path().join("r.db"), Principal::Nobody);
    let mut options = ClientOptions::new("ws://127.0.0.1:9/nobody", "");
    options.retry = RetryPolicy {
        base_ms: 1,
        ceiling_ms: 1,
        attempts_max: Some(3),
    };
    let client = Client::start(replica, options);
    let ConnectionState::Stopped { reason } = client.settled().await.connection else {
        panic!("it has not given up");
    };
    assert!(reason.contains("3 tries"), "{reason}");
    let mut status = client.status();
    status.mark_unchanged();
    client.retry_now();
    // It may have given up again before anybody looks.
    status.changed().await.unwrap();
}
