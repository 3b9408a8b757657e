//! The driver tells when sending starts and when everything sent has its outcome, and holds local
//! transactions back while it is paused.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use anabranch_client::{DriveError, Driver};
use anabranch_crdt::{ColumnId, Hlc, Millis, TableId};
use anabranch_protocol::{ClientFrame, Seq, ServerFrame};
use anabranch_replica::{Event, OpenOptions, Replica};
use anabranch_shape::schema::{Column, ColumnType, Schema, Table};

fn schema() -> Schema {
    let id = Column {
        id: ColumnId(1),
        name: "id".into(),
        kind: ColumnType::Text,
        declared_type: "text".into(),
        nullable: false,
        has_default: false,
        bytewise_order: true,
        merge: Default::default(),
    };
    let table = Table {
        id: TableId(1),
        namespace: "public".into(),
        name: "note".into(),
        columns: vec![id],
        primary_key: vec![ColumnId(1)],
        foreign_keys: vec![],
        delete: Default::default(),
    };
    Schema {
        version: 1,
        tables: vec![table],
    }
}

fn welcome(merged_through: u64) -> ServerFrame {
    ServerFrame::Welcome {
        version: 1,
        server_time: Millis(1_700_000_000_000),
        drift_max_ms: u64::MAX / 2,
        merged_through: Seq(merged_through),
        horizon: Hlc::ZERO,
        credit_transactions: 10,
        schema: Some(schema()),
    }
}

fn open(folder: &tempfile::TempDir) -> Replica {
    let mut replica = Replica::open(folder.path().join("r.db"), OpenOptions::system()).unwrap();
    replica.adopt_schema(schema()).unwrap();
    replica
}

fn write(replica: &mut Replica, id: &str) {
    let written = replica.transaction(|tx| tx.execute("INSERT INTO note VALUES (?1)", [id]));
    written.unwrap();
}

fn greet(driver: &mut Driver, replica: &mut Replica) {
    assert!(driver.poll_connect(Millis(0)));
    driver.connected(replica).unwrap();
    assert!(matches!(
        driver.poll_frame(replica).unwrap(),
        Some(ClientFrame::Hello { .. })
    ));
}

/// Tells that a transaction is accepted; what the application is told, but for rows that leave since
/// no shape holds them.
fn accept(driver: &mut Driver, replica: &mut Replica, seq: u64) -> Vec<Event> {
    let frame = ServerFrame::Accepted(Seq(seq));
    driver.receive(replica, frame).unwrap();
    let mut told = replica.take_events();
    told.retain(|event| !matches!(event, Event::Rows { .. }));
    told
}

#[test]
fn a_flush_is_told_from_start_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let (mut replica, mut driver) = (open(&folder), Driver::new(""));
    write(&mut replica, "a");
    write(&mut replica, "b");
    driver.pause();
    greet(&mut driver, &mut replica);
    replica.take_events();
    driver.receive(&mut replica, welcome(0)).unwrap();
    assert_eq!(driver.poll_frame(&mut replica).unwrap(), None);
    assert_eq!(replica.take_events(), [Event::Online]);

    driver.resume();
    let Some(ClientFrame::Push(sent)) = driver.poll_frame(&mut replica).unwrap() else {
        panic!("nothing is sent");
    };
    assert_eq!(sent.len(), 2);
    assert_eq!(replica.take_events(), [Event::FlushStarted]);
    write(&mut replica, "c");
    replica.take_events();
    assert_eq!(
        accept(&mut driver, &mut replica, 1),
        [Event::Accepted(Seq(1))]
    );
    let over = Event::FlushCompleted {
        sent: 2,
        remaining: 1,
    };
    let told = accept(&mut driver, &mut replica, 2);
    assert_eq!(told, [Event::Accepted(Seq(2)), over]);
}

#[test]
fn a_restored_file_greets_again_under_its_new_identity() {
    let folder = tempfile::tempdir().unwrap();
    let (mut replica, mut driver) = (open(&folder), Driver::new(""));
    write(&mut replica, "a");
    let before = replica.id();
    greet(&mut driver, &mut replica);
    let ended = driver.receive(&mut replica, welcome(7));
    assert!(matches!(ended, Err(DriveError::NewIdentity)));
    driver.disconnected(Millis(0), 0, "restored");
    assert_ne!(replica.id(), before);
    assert!(driver.poll_connect(Millis(0)));
    driver.connected(&mut replica).unwrap();
    let Some(ClientFrame::Hello { replica: id, .. }) = driver.poll_frame(&mut replica).unwrap()
    else {
        panic!("it does not greet");
    };
    assert_eq!(id, replica.id());
    driver.receive(&mut replica, welcome(0)).unwrap();
    let Some(ClientFrame::Push(sent)) = driver.poll_frame(&mut replica).unwrap() else {
        panic!("nothing is sent");
    };
    assert!(sent.iter().all(|waits| waits.stamp.replica == id));
}
