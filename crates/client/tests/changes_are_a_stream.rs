//! Tasks wait for what happens: what this process writes, and what another program does, with no
//! service in reach.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use anabranch_client::{Client, ClientOptions};
use anabranch_crdt::{ColumnId, RowKey, TableId, Value};
use anabranch_replica::{ChangeKind, Event, OpenOptions, Replica};
use anabranch_shape::schema::{Column, ColumnType, Schema, Table};
use futures_util::StreamExt;

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
    let table = |id_of, name: &str| Table {
        id: TableId(id_of),
        namespace: "public".into(),
        name: name.into(),
        columns: vec![id.clone()],
        primary_key: vec![ColumnId(1)],
        foreign_keys: vec![],
        delete: Default::default(),
    };
    Schema {
        version: 1,
        tables: vec![table(1, "note"), table(2, "tag")],
    }
}

fn rows(events: &[Event]) -> Vec<(TableId, RowKey, ChangeKind)> {
    let mut rows = Vec::new();
    for event in events {
        if let Event::Rows { changes, .. } = event {
            let told = |change: &anabranch_replica::RowChange| {
                (change.table, change.key.clone(), change.kind)
            };
            rows.extend(changes.iter().map(told));
        }
    }
    rows
}

fn inserted(table: u32, id: &str) -> (TableId, RowKey, ChangeKind) {
    let key = RowKey(vec![Value::text(id)]);
    (TableId(table), key, ChangeKind::Inserted)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_hears_of_what_it_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.db");
    let mut replica = Replica::open(&path, OpenOptions::system()).unwrap();
    replica.adopt_schema(schema()).unwrap();
    let client = Client::start(replica, ClientOptions::new("ws://127.0.0.1:9/nobody", ""));
    let mut all = Box::pin(client.changes().into_stream());
    let mut notes = client.changes_of_table("note").unwrap();
    let row = RowKey(vec![Value::text("b")]);
    let mut row = client.changes_of_row("note", row).unwrap();
    assert!(client.changes_of_table("nothing").is_err());

    let sql = "INSERT INTO note VALUES ('a'); INSERT INTO tag VALUES ('t')";
    let written = client.replica().transaction(|tx| tx.execute_batch(sql));
    written.unwrap();
    assert_eq!(rows(&notes.recv().await.unwrap()), [inserted(1, "a")]);
    let mut told = Vec::new();
    while told.len() < 2 {
        told.extend(rows(&all.next().await.unwrap()));
    }
    assert_eq!(told, [inserted(1, "a"), inserted(2, "t")]);

    // Another program, while there is no session.
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute("INSERT INTO note VALUES ('b')", []).unwrap();
    assert_eq!(rows(&row.recv().await.unwrap()), [inserted(1, "b")]);
    assert_eq!(rows(&notes.recv().await.unwrap()), [inserted(1, "b")]);
    drop(client);
    assert!(row.recv().await.is_none());
}
