//! The client gives the service's own words as the reason for being offline, and follows a query's
//! result without a service.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use anabranch_client::{Client, ClientOptions, ConnectionState};
use anabranch_crdt::Value;
use anabranch_protocol::{
    RefusalCode, ServerFrame,
    codec::{encode_server_frame, fragments},
};
use anabranch_replica::{Event, LiveQuery, OpenOptions, Replica};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpListener;
use tokio_tungstenite::{accept_async, tungstenite::Message};

/// A service that refuses everybody, and then hangs up.
async fn refuse(listener: TcpListener, message: &str) {
    let frame = ServerFrame::Refused {
        code: RefusalCode::Unavailable,
        message: message.to_owned(),
    };
    let bytes = encode_server_frame(&frame).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = accept_async(stream).await.unwrap();
        let _hello = socket.next().await;
        for fragment in fragments(&bytes) {
            socket.send(Message::Binary(fragment.into())).await.unwrap();
        }
        let _ = socket.close(None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reason_for_being_offline_is_what_the_service_said() {
    let folder = tempfile::tempdir().unwrap();
    let replica = Replica::open(folder.path().join("r.db"), OpenOptions::system()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/v1/sync", listener.local_addr().unwrap());
    tokio::spawn(refuse(
        listener,
        "the store is being upgraded; back at noon",
    ));
    let client = Client::start(replica, ClientOptions::new(url, ""));
    let mut status = client.status();
    let refused = |connection: &ConnectionState| match connection {
        ConnectionState::Offline { reason, .. } => reason.clone(),
        _ => None,
    };
    let seen = status.wait_for(|status| refused(&status.connection).is_some());
    let reason = refused(&seen.await.unwrap().connection).unwrap();
    assert_eq!(reason, "the store is being upgraded; back at noon");
    let told = client.replica().take_events();
    assert!(told.contains(&Event::Offline { reason }));

    client.pause();
    status.wait_for(|status| status.paused).await.unwrap();
    client.resume();
    status.wait_for(|status| !status.paused).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_query_is_a_stream() {
    let folder = tempfile::tempdir().unwrap();
    let replica = Replica::open(folder.path().join("r.db"), OpenOptions::system()).unwrap();
    let made = "CREATE TABLE draft(id INTEGER PRIMARY KEY)";
    replica.connection().execute_batch(made).unwrap();
    let options = ClientOptions::new("ws://127.0.0.1:9/nobody", "");
    let client = Client::start(replica, options);
    let mut live = client.live(LiveQuery::new("SELECT id FROM draft", vec![], &["id"]));
    let write = |id: i64| {
        let written = client
            .replica()
            .transaction(|tx| tx.execute("INSERT INTO draft VALUES (?1)", [id]));
        written.unwrap();
    };
    for id in 1..=3 {
        write(id);
        let diff = live.recv().await.unwrap().unwrap();
        assert_eq!(diff.inserted, [vec![Value::Integer(id)]]);
    }
    let mut broken = client.live(LiveQuery::new("SELECT nothing", vec![], &[]));
    assert!(broken.recv().await.unwrap().is_err());
    assert!(broken.recv().await.is_none());
}
