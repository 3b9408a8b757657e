//! The store of a demo, as other programs see it: a private Postgres reached with `psql`, or one SQLite
//! file reached with SQLite.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use anabranch_crdt::Value;
use anabranch_replica::tables::values::canonical;
use anabranch_shape::{
    rules::Rules,
    schema::{ColumnType, Table},
};
use anabranch_store::Store;
use anabranch_testkit::cluster::{Cluster, ClusterOptions, PgBinaries};
use rusqlite::Connection;

use super::verify::{quoted, select_sqlite};
use crate::{args::StoreChoice, failure::Failure, store};

const POSTGRES_SCHEMA: &str = include_str!("../../../../examples/pipeline/schema.sql");
const SQLITE_SCHEMA: &str = include_str!("../../../../examples/pipeline/schema.sqlite.sql");

/// A store with tables in it, of its own and gone with it.
pub(super) enum World {
    Postgres {
        cluster: Box<Cluster>,
        database: String,
    },
    Embedded {
        path: PathBuf,
    },
}

impl World {
    /// Makes a store and loads `script` into it, or the example where there is none. Without a choice,
    /// Postgres where its programs are found.
    pub(super) fn start(
        choice: Option<StoreChoice>,
        script: Option<&str>,
        folder: &Path,
    ) -> Result<Self, Failure> {
        match (choice, PgBinaries::find()) {
            (Some(StoreChoice::Embedded), _) => Self::embedded(script, folder),
            (_, Ok(binaries)) => Self::postgres(&binaries, script),
            (Some(StoreChoice::Postgres), Err(error)) => {
                Err(Failure::new("no Postgres server programs were found")
                    .advising(format!("install them, or use `--store embedded` ({error})")))
            }
            (None, Err(_)) => {
                eprintln!("no Postgres programs found here: using one SQLite file as the store");
                Self::embedded(script, folder)
            }
        }
    }

    fn postgres(binaries: &PgBinaries, script: Option<&str>) -> Result<Self, Failure> {
        let cluster = Cluster::start(binaries, ClusterOptions::default()).map_err(Failure::of)?;
        let database = "demo".to_owned();
        cluster.create_database(&database).map_err(Failure::of)?;
        cluster
            .sql(&database, script.unwrap_or(POSTGRES_SCHEMA))
            .map_err(Failure::of)?;
        let database = database_with_tables(&cluster, database)?;
        Ok(Self::Postgres {
            cluster: Box::new(cluster),
            database,
        })
    }

    fn embedded(script: Option<&str>, folder: &Path) -> Result<Self, Failure> {
        let path = folder.join("store.db");
        let failed = |error: rusqlite::Error| Failure::new(format!("the SQL fails: {error}"));
        let file = Connection::open(&path).map_err(failed)?;
        file.execute_batch(script.unwrap_or(SQLITE_SCHEMA))
            .map_err(failed)?;
        Ok(Self::Embedded { path })
    }

    /// Sets the store up for replication and opens it.
    pub(super) async fn open_store(&self) -> Result<Arc<dyn Store>, Failure> {
        match self {
            Self::Postgres { cluster, database } => {
                let url = cluster.url(database);
                store::install_postgres(&url, None, &Rules::new()).await?;
                store::open_postgres(&url, "anabranch_demo", &Rules::new()).await
            }
            Self::Embedded { path } => store::open_embedded(path, None, &Rules::new()),
        }
    }

    /// What it is, for programs.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Postgres { .. } => "postgres",
            Self::Embedded { .. } => "embedded",
        }
    }

    /// What it is, for people.
    pub(super) fn description(&self) -> String {
        match self {
            Self::Postgres { cluster, .. } => {
                format!("a private PostgreSQL {}", cluster.binaries().version())
            }
            Self::Embedded { .. } => "one SQLite file".to_owned(),
        }
    }

    /// Runs SQL as a program that has never heard of Anabranch.
    pub(super) fn run_sql(&self, sql: &str) -> Result<(), Failure> {
        match self {
            Self::Postgres { cluster, database } => {
                cluster.sql(database, sql).map(|_| ()).map_err(Failure::of)
            }
            Self::Embedded { path } => {
                let failed = |error: rusqlite::Error| Failure::new(format!("plain SQL: {error}"));
                let file = Connection::open(path).map_err(failed)?;
                file.pragma_update(None, "foreign_keys", true)
                    .map_err(failed)?;
                file.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
                file.execute_batch(sql).map_err(failed)
            }
        }
    }

    /// The rows of a table, as such a program reads them.
    pub(super) fn select(
        &self,
        table: &Table,
        condition: Option<&str>,
    ) -> Result<BTreeSet<Vec<Value>>, Failure> {
        match self {
            Self::Postgres { cluster, database } => {
                let sql = postgres_select(table, condition);
                let printed = cluster.sql(database, &sql).map_err(Failure::of)?;
                printed.lines().map(|line| read_row(table, line)).collect()
            }
            Self::Embedded { path } => {
                let file = Connection::open(path);
                let rows =
                    file.and_then(|file| select_sqlite(&file, &table.name, table, condition));
                let rows =
                    rows.map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
                Ok(rows
                    .into_iter()
                    .map(|row| in_canonical_form(table, row))
                    .collect())
            }
        }
    }
}

/// A row of the store's file as it travels: SQLite's own types are fewer than those that columns declare.
fn in_canonical_form(table: &Table, row: Vec<Value>) -> Vec<Value> {
    let cells = table.columns.iter().zip(row);
    cells
        .map(|(column, value)| canonical(column.kind, &value).unwrap_or(value))
        .collect()
}

/// The database that a script has made its tables in, which may be one that it has made itself.
fn database_with_tables(cluster: &Cluster, own: String) -> Result<String, Failure> {
    let databases = "select datname from pg_database where not datistemplate order by datname";
    let databases = cluster.sql(&own, databases).map_err(Failure::of)?;
    let made = databases
        .lines()
        .filter(|name| *name != own)
        .map(str::to_owned);
    let made: Vec<String> = made.collect();
    for database in std::iter::once(own).chain(made) {
        let tables = "select count(*) from pg_catalog.pg_tables
            where schemaname not in ('pg_catalog', 'information_schema')";
        if cluster.sql(&database, tables).map_err(Failure::of)?.trim() != "0" {
            return Ok(database);
        }
    }
    Err(Failure::new("the SQL makes no table")
        .advising("give a script with CREATE TABLE statements"))
}

/// A query that prints each row as a JSON array of texts, so that `psql` can tell its parts apart.
fn postgres_select(table: &Table, condition: Option<&str>) -> String {
    let text = |name: &String| {
        let name = quoted(name);
        format!("case when {name} is null then null else concat({name}) end")
    };
    let texts: Vec<String> = table
        .columns
        .iter()
        .map(|column| text(&column.name))
        .collect();
    let (namespace, name) = (quoted(&table.namespace), quoted(&table.name));
    let condition = condition
        .map(|condition| format!(" where {condition}"))
        .unwrap_or_default();
    format!(
        "set datestyle = 'ISO, DMY'; set timezone = 'UTC'; set bytea_output = 'hex';
         set intervalstyle = 'iso_8601'; set extra_float_digits = 1;
         select to_json(array[{}]::text[]) from {namespace}.{name}{condition}",
        texts.join(", ")
    )
}

fn read_row(table: &Table, line: &str) -> Result<Vec<Value>, Failure> {
    let unread = || Failure::new(format!("psql printed what is no row: {line}"));
    let texts: Vec<Option<String>> = serde_json::from_str(line).map_err(|_| unread())?;
    let cells = table.columns.iter().zip(texts);
    let values = cells.map(|(column, text)| match text {
        None => Ok(Value::Null),
        Some(text) => read_value(column.kind, text).ok_or_else(unread),
    });
    values.collect()
}

/// A value from the text that Postgres writes.
fn read_value(kind: ColumnType, text: String) -> Option<Value> {
    Some(match kind {
        ColumnType::Boolean => Value::Integer(i64::from(text == "t")),
        ColumnType::Integer => Value::Integer(text.parse().ok()?),
        ColumnType::Float => match text.as_str() {
            "Infinity" => Value::real(f64::INFINITY),
            "-Infinity" => Value::real(f64::NEG_INFINITY),
            _ => Value::real(text.parse().ok()?),
        },
        ColumnType::Bytes => Value::Blob(bytes(text.strip_prefix("\\x")?)?),
        _ => Value::Text(text),
    })
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

/// How long plain SQL waits for the service to finish writing the file.
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
