//! What the scenarios share: a database, a service, replicas, and how they are held against each
//! other.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anabranch_client::{Client, ClientOptions};
use anabranch_crdt::{RowKey, RowState};
use anabranch_postgres::{PostgresOptions, PostgresStore, TableSelection, install};
use anabranch_protocol::ShapeRequest;
use anabranch_replica::{OpenOptions, Replica};
use anabranch_service::{Service, hub::HubConfig};
use anabranch_shape::Shape;
use anabranch_store::{SnapshotQuery, Store};
use anabranch_testkit::{cluster::Cluster, sim::Rng};
use tempfile::TempDir;
use tokio_postgres::NoTls;

/// How long anything may take to come together before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(120);

/// A database under replication.
pub(crate) struct Database {
    pub(crate) url: String,
    pub(crate) slot: String,
    pub(crate) sql: tokio_postgres::Client,
}

impl Database {
    /// With every table of `ddl` replicated.
    pub(crate) async fn new(cluster: &Cluster, ddl: &str) -> Self {
        Self::installed(cluster, ddl, &TableSelection::All).await
    }

    /// With some of them replicated.
    pub(crate) async fn replicating(cluster: &Cluster, ddl: &str, tables: &str) -> Self {
        let named = tables.split(", ").map(str::to_owned).collect();
        Self::installed(cluster, ddl, &TableSelection::Named(named)).await
    }

    async fn installed(cluster: &Cluster, ddl: &str, tables: &TableSelection) -> Self {
        let name = cluster.fresh_database().unwrap();
        let url = cluster.url(&name);
        let sql = connect(&url).await;
        sql.batch_execute(ddl).await.unwrap();
        install(&url, tables).await.unwrap();
        let slot = format!("slot_{name}");
        Self { url, slot, sql }
    }

    pub(crate) async fn reconnect(&mut self) {
        self.sql = connect(&self.url).await;
    }

    pub(crate) async fn store(&self) -> PostgresStore {
        let options = PostgresOptions {
            slot: self.slot.clone(),
            ..PostgresOptions::new(&self.url)
        };
        PostgresStore::connect(&options).await.unwrap()
    }

    pub(crate) async fn serve(&self, address: SocketAddr) -> Service {
        let config = HubConfig {
            drift_max_ms: anabranch_protocol::limits::DRIFT_MAX_MS,
            token: None,
            shapes: BTreeMap::new(),
            allow_spelled_shapes: true,
        };
        let store: Arc<dyn Store> = Arc::new(self.store().await);
        Service::start(store, config, address).await.unwrap()
    }

    /// A configuration file for `anabranch serve`.
    pub(crate) fn write_config(&self, folder: &Path, address: SocketAddr) -> PathBuf {
        let path = folder.join("anabranch.toml");
        let (url, slot) = (&self.url, &self.slot);
        let text =
            format!("listen = \"{address}\"\n[store]\npostgres = \"{url}\"\nslot = \"{slot}\"\n");
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        self.sql.query_one(sql, &[]).await.unwrap().get(0)
    }
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// An address that is free now.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// A replica that goes on and off line.
pub(crate) struct Editor {
    pub(crate) file: PathBuf,
    url: String,
    offline: Option<Replica>,
    online: Option<Client>,
}

impl Editor {
    pub(crate) fn new(
        folder: &TempDir,
        name: &str,
        url: &str,
        shapes: &[(&str, Option<&str>)],
    ) -> Self {
        let file = folder.path().join(format!("{name}.db"));
        let mut replica = Replica::open(&file, OpenOptions::system()).unwrap();
        for (table, filter) in shapes {
            replica.subscribe(&shape(table, *filter)).unwrap();
        }
        let (url, offline) = (url.to_owned(), Some(replica));
        Self {
            file,
            url,
            offline,
            online: None,
        }
    }

    pub(crate) fn go_online(&mut self) {
        if let Some(replica) = self.offline.take() {
            let options = ClientOptions::new(&self.url, "");
            self.online = Some(Client::start(replica, options));
        }
    }

    pub(crate) async fn go_offline(&mut self) {
        if let Some(client) = self.online.take() {
            self.offline = client.stop().await;
        }
    }

    pub(crate) fn is_online(&self) -> bool {
        self.online.is_some()
    }

    pub(crate) fn with<T>(&mut self, act: impl FnOnce(&mut Replica) -> T) -> T {
        match (&mut self.offline, &self.online) {
            (Some(replica), _) => act(replica),
            (None, Some(client)) => act(&mut client.replica()),
            (None, None) => panic!("the replica is gone"),
        }
    }

    /// Runs SQL as one local transaction; whether it was committed and sealed.
    pub(crate) fn write(&mut self, sql: &str) -> bool {
        let committed = self.with(|replica| replica.transaction(|tx| tx.execute_batch(sql)));
        committed.is_ok_and(|committed| committed.seq.is_some())
    }

    pub(crate) async fn settled(&mut self) {
        self.go_online();
        let client = self.online.as_ref().unwrap();
        match tokio::time::timeout(PATIENCE, client.settled()).await {
            Ok(status) => assert!(status.is_settled(), "{status:?}"),
            Err(_) => panic!("not settled: {:?}", client.status().borrow()),
        }
    }
}

pub(crate) fn shape(table: &str, filter: Option<&str>) -> ShapeRequest {
    ShapeRequest::Spelled {
        table: table.to_owned(),
        filter: filter.map(str::to_owned),
        columns: Vec::new(),
        parameters: Vec::new(),
    }
}

pub(crate) type Rows = BTreeMap<RowKey, RowState>;

/// Every row that the store holds, by table.
pub(crate) async fn store_rows(store: &PostgresStore) -> BTreeMap<String, Rows> {
    let mut all = BTreeMap::new();
    for table in &store.schema().await.unwrap().tables {
        let columns = table.registers().map(|column| column.id).collect();
        let query = SnapshotQuery {
            table: table.id,
            filter: None,
            columns,
        };
        let mut snapshot = store.snapshot(query).await.unwrap();
        let mut rows = Rows::new();
        while let Some(chunk) = snapshot.chunks.recv().await {
            rows.extend(
                chunk
                    .unwrap()
                    .into_iter()
                    .map(|delta| (delta.key, delta.state)),
            );
        }
        all.insert(table.local_name(), rows);
    }
    all
}

/// What a replica should hold of the store, and what it does hold.
pub(crate) async fn expected_and_held(
    store: &PostgresStore,
    editor: &mut Editor,
) -> (String, String) {
    let schema = store.schema().await.unwrap();
    let all = store_rows(store).await;
    let (mut expected, mut held) = (BTreeMap::new(), BTreeMap::new());
    let subscriptions = editor.with(|replica| replica.subscriptions().unwrap());
    for subscription in subscriptions {
        let ShapeRequest::Spelled { table, filter, .. } = subscription.shape else {
            panic!()
        };
        let shape = Shape::define(&schema, &table, filter.as_deref(), &[], &[]).unwrap();
        let described = schema.table(shape.table).unwrap();
        let rows: &mut Rows = expected.entry(table.clone()).or_default();
        for (key, state) in &all[&table] {
            if shape.contains(key, state, described) {
                rows.insert(key.clone(), state.clone());
            }
        }
        let states = editor.with(|replica| replica.row_states(&table).unwrap());
        held.insert(table, states.into_iter().collect::<Rows>());
    }
    (format!("{expected:#?}"), format!("{held:#?}"))
}

/// Waits until the replica holds exactly its shapes of the store, state for state.
pub(crate) async fn equal(store: &PostgresStore, editor: &mut Editor) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        editor.settled().await;
        let (expected, held) = expected_and_held(store, editor).await;
        if expected == held {
            return;
        }
        if tokio::time::Instant::now() > deadline {
            let differing = expected.lines().zip(held.lines()).position(|(a, b)| a != b);
            let from = differing.unwrap_or(0).saturating_sub(12);
            let excerpt = |text: &str| {
                text.lines()
                    .skip(from)
                    .take(30)
                    .collect::<Vec<_>>()
                    .join("\n")
            };
            panic!(
                "{:?}\nexpected\n{}\nheld\n{}",
                editor.file,
                excerpt(&expected),
                excerpt(&held)
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The rows of a query as text, in SQLite.
pub(crate) fn sqlite_text(editor: &mut Editor, sql: &str) -> Vec<Vec<String>> {
    editor.with(|replica| {
        let mut query = replica.connection().prepare(sql).unwrap();
        let columns = query.column_count();
        let rows = query.query_map([], |row| {
            (0..columns)
                .map(|index| row.get::<_, Option<String>>(index))
                .collect()
        });
        let rows: Vec<Vec<Option<String>>> = rows.unwrap().map(Result::unwrap).collect();
        shown(rows)
    })
}

/// The same in Postgres; every column of the query must be text.
pub(crate) async fn postgres_text(database: &Database, sql: &str) -> Vec<Vec<String>> {
    let rows = database.sql.query(sql, &[]).await.unwrap();
    let row = |row: &tokio_postgres::Row| (0..row.len()).map(|index| row.get(index)).collect();
    shown(rows.iter().map(row).collect())
}

fn shown(rows: Vec<Vec<Option<String>>>) -> Vec<Vec<String>> {
    let cell = |cell: Option<String>| cell.unwrap_or_else(|| "NULL".to_owned());
    rows.into_iter()
        .map(|row| row.into_iter().map(cell).collect())
        .collect()
}

/// A text that SQL can hold in quotes.
pub(crate) fn word(rng: &mut Rng) -> String {
    let words = [
        "river",
        "Flu\u{df}",
        "\u{5ddd}",
        "rapids",
        "o''xbow",
        "delta %_",
    ];
    format!("{} {}", rng.pick(&words).unwrap(), rng.below(100))
}
