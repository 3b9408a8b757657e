//! A real service on a real socket over the embedded store, honest clients, and raw connections.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    dead_code,
    unreachable_pub
)]

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anabranch_client::{Client, ClientOptions};
use anabranch_crdt::ReplicaId;
use anabranch_protocol::{
    ClientFrame, RefusalCode, Seq, ServerFrame, ShapeRequest,
    codec::{Assembler, decode_server_frame, encode_client_frame, fragments},
    limits::FRAME_BYTES_MAX,
};
use anabranch_replica::{OpenOptions, Replica};
use anabranch_service::{Service, hub::HubConfig};
use anabranch_store::embedded::EmbeddedStore;
use futures_util::{SinkExt, StreamExt};
use tempfile::TempDir;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

pub const TOKEN: &str = "sesame";

const SCHEMA: &str =
    "CREATE TABLE notes(id INTEGER PRIMARY KEY NOT NULL, owner INTEGER, title TEXT)";

/// How long anything may take before it counts as not happening.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Edge {
    pub folder: TempDir,
    pub store: Arc<EmbeddedStore>,
    pub service: Service,
    clients: u32,
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

pub async fn serve(store: Arc<EmbeddedStore>, address: SocketAddr) -> Service {
    let config = HubConfig {
        drift_max_ms: 300_000,
        token: Some(TOKEN.to_owned()),
        shapes: BTreeMap::new(),
        allow_spelled_shapes: true,
    };
    Service::start(store, config, address).await.unwrap()
}

impl Edge {
    pub async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let store =
            Arc::new(EmbeddedStore::open(&folder.path().join("store.db"), Some(SCHEMA)).unwrap());
        let service = serve(Arc::clone(&store), ([127, 0, 0, 1], 0).into()).await;
        Self::of(folder, store, service)
    }

    pub fn of(folder: TempDir, store: Arc<EmbeddedStore>, service: Service) -> Self {
        // Every replica in the folder has a name of its own.
        let clients = u32::try_from(folder.path().read_dir().unwrap().count()).unwrap();
        Self {
            folder,
            store,
            service,
            clients,
        }
    }

    /// An honest client with a replica of its own, subscribed to `filter`.
    pub fn client(&mut self, filter: &str) -> Client {
        self.clients += 1;
        let path = self
            .folder
            .path()
            .join(format!("replica{}.db", self.clients));
        let mut replica = Replica::open(path, OpenOptions::system()).unwrap();
        replica.subscribe(&spelled(filter)).unwrap();
        let options = ClientOptions::new(self.service.url(), TOKEN);
        Client::start(replica, options)
    }

    pub async fn raw(&self) -> Raw {
        let (socket, _) = connect_async(self.service.url()).await.unwrap();
        Raw {
            socket,
            assembler: Assembler::new(FRAME_BYTES_MAX),
        }
    }

    /// A raw connection that has been welcomed.
    pub async fn welcomed(&self, replica: u8) -> Raw {
        let mut raw = self.raw().await;
        raw.say(&hello(replica, TOKEN)).await;
        let welcome = raw.frame().await;
        assert!(
            matches!(welcome, Some(ServerFrame::Welcome { .. })),
            "{welcome:?}"
        );
        raw
    }

    /// Two new and honest clients are served: what the one writes, the other sees.
    pub async fn serves_the_honest(&mut self) {
        let (writer, reader) = (self.client("owner = 1"), self.client("owner = 1"));
        within("the first client", writer.settled()).await;
        within("the second client", reader.settled()).await;
        let title = format!("from {}", self.clients);
        write(
            &writer,
            &format!("INSERT INTO notes VALUES (abs(random()), 1, '{title}')"),
        );
        let status = within("the write", writer.settled()).await;
        assert!(status.is_settled(), "{status:?}");
        sees(&reader, &title).await;
        writer.stop().await;
        reader.stop().await;
    }
}

pub fn spelled(filter: &str) -> ShapeRequest {
    ShapeRequest::Spelled {
        table: "notes".to_owned(),
        filter: Some(filter.to_owned()),
        columns: Vec::new(),
        parameters: Vec::new(),
    }
}

pub fn hello(replica: u8, token: &str) -> ClientFrame {
    ClientFrame::Hello {
        versions: (1, 1),
        replica: ReplicaId([replica; 16]),
        token: token.to_owned(),
        schema_version: 0,
        first_pending: Seq(1),
        credit_frames: 16,
    }
}

pub fn write(client: &Client, sql: &str) {
    let mut replica = client.replica();
    let written = replica.transaction(|tx| tx.execute_batch(sql));
    written.unwrap();
}

pub fn titles(client: &Client) -> Vec<String> {
    let mut replica = client.replica();
    let read = replica.transaction(|tx| {
        let mut query = tx.prepare("SELECT title FROM notes ORDER BY title")?;
        let titles = query.query_map([], |row| row.get(0))?;
        titles.collect::<Result<Vec<String>, rusqlite::Error>>()
    });
    read.unwrap().value
}

/// Waits until a client holds a note of this title.
pub async fn sees(client: &Client, title: &str) {
    within(title, async {
        while !titles(client).iter().any(|held| held == title) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// What another program writes to the store's file.
pub fn write_to_store(folder: &Path, sql: &str) {
    let conn = rusqlite::Connection::open(folder.join("store.db")).unwrap();
    conn.busy_timeout(PATIENCE).unwrap();
    conn.execute_batch(sql).unwrap();
}

pub struct Raw {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    assembler: Assembler,
}

impl Raw {
    pub async fn say(&mut self, frame: &ClientFrame) {
        for fragment in fragments(&encode_client_frame(frame).unwrap()) {
            self.send(Message::Binary(fragment.into())).await;
        }
    }

    /// Sends, unless the service has hung up.
    pub async fn send(&mut self, message: Message) {
        let _ = within("the socket", self.socket.send(message)).await;
    }

    pub async fn bytes(&mut self, bytes: &[u8]) {
        self.send(Message::Binary(bytes.to_vec().into())).await;
    }

    /// The next frame; none once the service has hung up.
    pub async fn frame(&mut self) -> Option<ServerFrame> {
        loop {
            let message = within("a frame or the end", self.socket.next()).await?;
            match message.ok()? {
                Message::Binary(bytes) => {
                    if let Some(frame) = self.assembler.push(&bytes).unwrap() {
                        return Some(decode_server_frame(&frame).unwrap());
                    }
                }
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    /// Reads on to the end, which must come after a refusal.
    pub async fn refused(&mut self) -> RefusalCode {
        let mut refusal = None;
        while let Some(frame) = self.frame().await {
            if let ServerFrame::Refused { code, message } = frame {
                assert!(!message.is_empty());
                refusal = Some(code);
            }
        }
        refusal.expect("hung up without a word")
    }

    /// Reads on to the end, whatever is said before.
    pub async fn hung_up(&mut self) {
        while self.frame().await.is_some() {}
    }

    /// The connection below, with nothing between.
    pub fn tcp(&mut self) -> &mut TcpStream {
        match self.socket.get_mut() {
            MaybeTlsStream::Plain(tcp) => tcp,
            _ => panic!("not a plain connection"),
        }
    }
}
