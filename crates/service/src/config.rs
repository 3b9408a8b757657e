//! The service's configuration: one TOML file, read once, parsed into what cannot be wrong.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anabranch_protocol::limits::DRIFT_MAX_MS;
use anabranch_shape::rules::{RuleEntry, RuleError, Rules, TableRules};
use serde::Deserialize;
use thiserror::Error;

use crate::hub::{HubConfig, NamedShape};

/// Where the service listens, what it replicates, and what it serves.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// What is replicated.
    pub store: StoreConfig,
    /// How the tables merge, where it is not as usual.
    pub rules: Rules,
    /// What is served, and to whom.
    pub hub: HubConfig,
    /// How long the store remembers deleted rows; for good where there is none. A replica that was
    /// away for longer can have writes to such rows refused.
    pub retention: Option<Duration>,
}

/// What the service replicates.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreConfig {
    /// A Postgres database in which `anabranch install` has been run.
    Postgres {
        /// Its connection string.
        url: String,
        /// The replication slot and the publication.
        slot: String,
    },
    /// One SQLite file.
    Embedded {
        /// The file; made if it is not there.
        path: PathBuf,
        /// SQL that makes the tables, run when the file is new.
        schema: Option<PathBuf>,
    },
}

// Connection strings hold passwords, so they are kept out of logs.
impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Postgres { slot, .. } => f
                .debug_struct("Postgres")
                .field("slot", slot)
                .finish_non_exhaustive(),
            Self::Embedded { path, schema } => f
                .debug_struct("Embedded")
                .field("path", path)
                .field("schema", schema)
                .finish(),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a key that means nothing.
    #[error("the configuration is wrong: {0}")]
    Parse(String),
    /// Neither store, or both.
    #[error("the configuration names {0}; give `store.postgres` or `store.embedded`, one of them")]
    Store(&'static str),
    /// A rule for a table that means nothing.
    #[error(transparent)]
    Rule(#[from] RuleError),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default = "default_listen")]
    listen: SocketAddr,
    token: Option<String>,
    #[serde(default = "default_drift_max_ms")]
    drift_max_ms: u64,
    allow_spelled_shapes: Option<bool>,
    #[serde(default = "default_retention_days")]
    retention_days: u32,
    store: StoreSection,
    #[serde(default)]
    shapes: BTreeMap<String, ShapeSection>,
    #[serde(default)]
    tables: BTreeMap<String, TableSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreSection {
    postgres: Option<String>,
    #[serde(default = "default_slot")]
    slot: String,
    embedded: Option<PathBuf>,
    schema: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShapeSection {
    table: String,
    #[serde(rename = "where")]
    filter: Option<String>,
    #[serde(default)]
    columns: Vec<String>,
}

const SECONDS_A_DAY: u64 = 24 * 60 * 60;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableSection {
    #[serde(default)]
    columns: BTreeMap<String, String>,
    delete: Option<String>,
    #[serde(default)]
    references: BTreeMap<String, String>,
}

impl TableSection {
    /// What the section says, in words.
    fn entries(self, table: &str) -> Vec<RuleEntry> {
        let entry = |subject: &str, (name, word)| RuleEntry {
            table: table.to_owned(),
            subject: subject.to_owned(),
            name,
            word,
        };
        let columns = self.columns.into_iter().map(|rule| entry("column", rule));
        let references = self.references.into_iter();
        let references = references.map(|rule| entry("reference", rule));
        let delete = self
            .delete
            .map(|word| entry("delete", (String::new(), word)));
        columns.chain(references).chain(delete).collect()
    }
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 4600))
}

fn default_drift_max_ms() -> u64 {
    DRIFT_MAX_MS
}

/// Longer than a holiday.
const fn default_retention_days() -> u32 {
    90
}

fn default_slot() -> String {
    "anabranch".to_owned()
}

impl Config {
    /// Reads a configuration file; paths in it are relative to its folder.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        Self::parse(&text, folder)
    }

    /// Parses a configuration.
    ///
    /// ```
    /// use anabranch_service::config::Config;
    ///
    /// let config = Config::parse(
    ///     r#"
    ///     listen = "127.0.0.1:0"
    ///     [store]
    ///     embedded = "notes.db"
    ///     [shapes.notes_of]
    ///     table = "notes"
    ///     where = "owner = :owner"
    ///     [tables.notes]
    ///     columns = { likes = "counter", tags = "set" }
    ///     delete = "wins_over_update"
    ///     "#,
    ///     "/var/lib/notes".as_ref(),
    /// )?;
    /// assert!(!config.hub.allow_spelled_shapes);
    /// # Ok::<(), anabranch_service::config::ConfigError>(())
    /// ```
    pub fn parse(text: &str, folder: &Path) -> Result<Self, ConfigError> {
        let file: File =
            toml::from_str(text).map_err(|error| ConfigError::Parse(error.to_string()))?;
        let store = match (file.store.postgres, file.store.embedded) {
            (Some(url), None) => StoreConfig::Postgres {
                url,
                slot: file.store.slot,
            },
            (None, Some(path)) => StoreConfig::Embedded {
                path: folder.join(path),
                schema: file.store.schema.map(|schema| folder.join(schema)),
            },
            (None, None) => return Err(ConfigError::Store("no store")),
            (Some(_), Some(_)) => return Err(ConfigError::Store("two stores")),
        };
        let mut rules = Rules::new();
        for (table, section) in file.tables {
            rules = rules.table(&table, TableRules::new());
            for entry in section.entries(&table) {
                rules.add(&entry)?;
            }
        }
        let named = |shape: ShapeSection| NamedShape {
            table: shape.table,
            filter: shape.filter,
            columns: shape.columns,
        };
        let hub = HubConfig {
            drift_max_ms: file.drift_max_ms,
            token: file.token,
            // A service that names its shapes means those; one that names none is being tried out.
            allow_spelled_shapes: file.allow_spelled_shapes.unwrap_or(file.shapes.is_empty()),
            shapes: file
                .shapes
                .into_iter()
                .map(|(name, shape)| (name, named(shape)))
                .collect(),
        };
        Ok(Self {
            listen: file.listen,
            store,
            rules,
            hub,
            // None keeps them for good.
            retention: (file.retention_days > 0)
                .then(|| Duration::from_secs(u64::from(file.retention_days) * SECONDS_A_DAY)),
        })
    }
}
