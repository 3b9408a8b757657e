//! What the tests share: an installed database, a model replica that follows the log, and uploads.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    dead_code
)]
#![allow(unreachable_pub)]

use std::{collections::BTreeMap, time::Duration};

use anabranch_crdt::{
    ColumnId, Delta, Existence, Hlc, Millis, ReplicaId, RowKey, RowState, Stamp, TableId, Value,
};
use anabranch_postgres::{PostgresOptions, PostgresStore, TableSelection, install_with};
use anabranch_protocol::{Inserts, LocalTransaction, Position, Seq};
use anabranch_shape::{
    rules::Rules,
    schema::{Schema, Table},
};
use anabranch_store::{
    LogEvent, MergeOutcome, SnapshotQuery, Store as _, StoreTransaction, Upload, Visibility,
};
use anabranch_testkit::cluster::shared_cluster;
use tokio::sync::mpsc;
use tokio_postgres::{Client, NoTls};

pub const PATIENCE: Duration = Duration::from_secs(30);

/// A database with Anabranch installed over some tables.
pub struct Fixture {
    pub url: String,
    pub slot: String,
    pub store: PostgresStore,
    pub sql: Client,
}

impl Fixture {
    /// Runs `ddl` in a database of its own and replicates every table in it.
    pub async fn new(ddl: &str) -> Self {
        Self::with_rules(ddl, &Rules::new()).await
    }

    /// The same, with rules for the tables.
    pub async fn with_rules(ddl: &str, rules: &Rules) -> Self {
        let (url, slot) = fresh_database();
        let sql = client(&url).await;
        sql.batch_execute(ddl).await.unwrap();
        install_with(&url, &TableSelection::All, rules)
            .await
            .unwrap();
        let store = PostgresStore::connect(&options(&url, &slot)).await.unwrap();
        Self {
            url,
            slot,
            store,
            sql,
        }
    }

    pub async fn run(&self, sql: &str) {
        self.sql
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub async fn schema(&self) -> std::sync::Arc<Schema> {
        self.store.schema().await.unwrap()
    }

    pub async fn table(&self, name: &str) -> Table {
        self.schema().await.table_named(name).unwrap().clone()
    }

    /// One value as text.
    pub async fn one(&self, sql: &str) -> Option<String> {
        let rows = self
            .sql
            .query(sql, &[])
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        rows.first().and_then(|row| row.get::<_, Option<String>>(0))
    }

    /// Follows the log, with everything that is there already.
    pub async fn follow(&self) -> Log {
        let events = self.store.follow().await.unwrap();
        let mut rows = BTreeMap::new();
        for table in &self.schema().await.tables {
            let there = self.snapshot(table).await.1;
            rows.extend(there.into_iter().map(|(key, row)| ((table.id, key), row)));
        }
        Log {
            events,
            position: Position(0),
            transactions: Vec::new(),
            rows,
        }
    }

    /// Every row of a table as a snapshot tells it, and what the snapshot had seen.
    pub async fn snapshot(&self, table: &Table) -> (Visibility, BTreeMap<RowKey, RowState>) {
        let columns = table.registers().map(|column| column.id).collect();
        let query = SnapshotQuery {
            table: table.id,
            filter: None,
            columns,
        };
        let mut snapshot = self.store.snapshot(query).await.unwrap();
        let mut rows = BTreeMap::new();
        while let Some(chunk) = snapshot.chunks.recv().await {
            rows.extend(
                chunk
                    .unwrap()
                    .into_iter()
                    .map(|delta| (delta.key, delta.state)),
            );
        }
        (snapshot.visibility, rows)
    }

    pub async fn merge(&self, uploads: Vec<Upload>) -> Vec<MergeOutcome> {
        self.store.merge(uploads).await.unwrap()
    }
}

pub fn fresh_database() -> (String, String) {
    let cluster = shared_cluster();
    let name = cluster.fresh_database().unwrap();
    (cluster.url(&name), format!("slot_{name}"))
}

pub fn options(url: &str, slot: &str) -> PostgresOptions {
    PostgresOptions {
        slot: slot.to_owned(),
        ..PostgresOptions::new(url)
    }
}

pub async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The log as a replica that subscribes to everything hears it.
pub struct Log {
    pub events: mpsc::Receiver<LogEvent>,
    pub position: Position,
    pub transactions: Vec<StoreTransaction>,
    pub rows: BTreeMap<(TableId, RowKey), RowState>,
}

impl Log {
    /// Takes the next event in.
    pub async fn next(&mut self) -> LogEvent {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        let event = event
            .expect("the log is silent")
            .expect("the log broke off");
        match &event {
            LogEvent::Idle(position) => {
                assert!(*position >= self.position, "positions went back");
                self.position = *position;
            }
            LogEvent::Transaction(transaction) => {
                assert!(
                    transaction.position > self.position,
                    "positions did not go on"
                );
                self.position = transaction.position;
                for delta in &transaction.deltas {
                    let row = self
                        .rows
                        .entry((delta.table, delta.key.clone()))
                        .or_default();
                    let _ = row.merge(&delta.state);
                }
                self.transactions.push(transaction.clone());
            }
            LogEvent::SchemaChanged(_) => {}
        }
        event
    }

    /// Hears everything that has been committed by now.
    pub async fn catch_up(&mut self, sql: &Client) {
        // Twice, since what the tailer mends comes after what made it mend.
        for _ in 0..2 {
            let row = sql
                .query_one(
                    "select (pg_logical_emit_message(true, 'test', '') - '0/0')::bigint",
                    &[],
                )
                .await
                .unwrap();
            let position = Position(row.get::<_, i64>(0).unsigned_abs());
            while self.position < position {
                self.next().await;
            }
        }
    }

    /// The transactions heard since the last call.
    pub fn heard(&mut self) -> Vec<StoreTransaction> {
        std::mem::take(&mut self.transactions)
    }

    /// The rows of a table that are present.
    pub fn present(&self, table: &Table) -> BTreeMap<RowKey, RowState> {
        let rows = self
            .rows
            .iter()
            .filter(|((id, _), row)| *id == table.id && row.existence().is_present());
        rows.map(|((_, key), row)| (key.clone(), row.clone()))
            .collect()
    }

    pub fn row(&self, table: &Table, key: &RowKey) -> &RowState {
        &self.rows[&(table.id, key.clone())]
    }
}

pub fn key(value: i64) -> RowKey {
    RowKey(vec![Value::Integer(value)])
}

pub fn replica(number: u8) -> ReplicaId {
    ReplicaId([number; 16])
}

/// A stamp of replica `number` at `ms`.
pub fn stamp(number: u8, ms: u64) -> Stamp {
    Stamp::new(Hlc::new(Millis(ms), 0).unwrap(), replica(number))
}

/// A stamp that is newer than what SQL writes now.
pub fn future_stamp(number: u8, beyond_ms: u64) -> Stamp {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    stamp(number, u64::try_from(now.as_millis()).unwrap() + beyond_ms)
}

/// A row state that writes `cells` at `stamp` and makes the row live.
pub fn write(stamp: Stamp, cells: &[(u16, Value)]) -> RowState {
    let mut state = RowState::live(stamp);
    for (column, value) in cells {
        state.set(ColumnId(*column), stamp, value.clone());
    }
    state
}

/// A row state that removes what `existence` shows.
pub fn removal(existence: &Existence) -> RowState {
    RowState::of_existence(existence.removal())
}

pub fn delta(table: &Table, key: RowKey, state: RowState) -> Delta {
    Delta {
        table: table.id,
        key,
        state,
    }
}

pub fn upload(number: u8, seq: u64, stamp: Stamp, deltas: Vec<Delta>) -> Upload {
    let mut hash = [number; 32];
    hash[..8].copy_from_slice(&seq.to_be_bytes());
    let transaction = LocalTransaction {
        seq: Seq(seq),
        stamp,
        inserts: Inserts::all(deltas.len()),
        replaces: 0,
        deltas,
    };
    Upload {
        replica: replica(number),
        transaction,
        hash,
    }
}

pub fn text(text: &str) -> Value {
    Value::text(text)
}

/// What a rejection says, if it is one.
pub fn rejection(outcome: &MergeOutcome) -> &anabranch_store::Rejection {
    match outcome {
        MergeOutcome::Rejected(rejection) => rejection,
        other => panic!("{other:?} is no rejection"),
    }
}
