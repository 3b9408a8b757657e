//! What can be typed: commands, arguments and their help. Nothing is carried out here.

use std::path::PathBuf;

use anabranch_crdt::Value;
use anabranch_protocol::ShapeRequest;
use anabranch_replica::Fingerprint;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Local-first replication: SQLite replicas, Postgres, and merges that never roll back.
#[derive(Debug, Parser)]
#[command(name = "anabranch", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Print one JSON object for programs to read
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// See two editors and a SQL program write at once, offline, and end with the same rows
    Demo(DemoArgs),
    /// Run the service until interrupted
    Serve(ServeArgs),
    /// Set up a Postgres database for replication; safe to repeat
    Install(InstallArgs),
    /// Remove everything that `install` and the service made in a Postgres database
    Uninstall(UninstallArgs),
    /// Make, sync, query and change a replica
    #[command(subcommand)]
    Replica(ReplicaCommand),
    /// Look into a replica: tables, clocks, subscriptions, outbox, refused transactions
    Inspect(InspectArgs),
    /// Copy a replica's file, also while it is in use; opened, the copy is a replica of its own
    Backup {
        /// The replica's file
        file: PathBuf,
        /// The file to make
        to: PathBuf,
    },
    /// List, export or import what a replica has not sent
    #[command(subcommand)]
    Outbox(OutboxCommand),
    /// Examine a replica's file: whether it is whole, and rows, clocks and triggers agree
    Doctor(DoctorArgs),
    /// Print every limit, with its reason
    Limits,
    /// Measure this machine
    #[command(subcommand)]
    Bench(BenchCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// How fast rows merge into a replica, beside what SQLite alone does with them
    Merge(BenchMergeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BenchMergeArgs {
    /// Rows of the table
    #[arg(long, value_name = "N", default_value_t = 100_000,
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) rows: u32,
    /// Rounds that each figure is the median of
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) rounds: u32,
    /// Measure only this case; may be given again
    #[arg(long = "case", value_name = "NAME",
          value_parser = clap::builder::PossibleValuesParser::new(anabranch_testkit::bench::CASES))]
    pub(crate) cases: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// What the service replicates [default: postgres where its programs are found]
    #[arg(long)]
    pub(crate) store: Option<StoreChoice>,
    /// Replicate the tables of this SQL script instead of the example's
    #[arg(long, value_name = "FILE")]
    pub(crate) sql: Option<PathBuf>,
    /// Keep the replicas in this folder, to look into
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoreChoice {
    /// A private Postgres, started for the demo and gone with it
    Postgres,
    /// One SQLite file
    Embedded,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The configuration file
    #[arg(
        long,
        value_name = "FILE",
        env = "ANABRANCH_CONFIG",
        default_value = "anabranch.toml"
    )]
    pub(crate) config: PathBuf,
    /// How to write the log to standard error; `RUST_LOG` says how much
    #[arg(
        long,
        value_name = "FORMAT",
        env = "ANABRANCH_LOG",
        default_value = "text"
    )]
    pub(crate) log: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct PostgresArgs {
    /// The connection string, as `postgres://user:password@host/database`
    #[arg(
        long = "postgres",
        value_name = "URL",
        env = "ANABRANCH_POSTGRES",
        hide_env_values = true
    )]
    pub(crate) url: String,
}

#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    #[command(flatten)]
    pub(crate) postgres: PostgresArgs,
    /// The replication slot to drop, as the configuration names it
    #[arg(long, value_name = "NAME", default_value = "anabranch")]
    pub(crate) slot: String,
}

#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    pub(crate) postgres: PostgresArgs,
    #[command(flatten)]
    pub(crate) tables: TableChoice,
    /// The service's configuration, whose `[tables]` say how the tables merge
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct TableChoice {
    /// The tables to replicate, separated by commas
    #[arg(long, value_name = "TABLES", value_delimiter = ',')]
    pub(crate) tables: Vec<String>,
    /// Replicate every table
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReplicaCommand {
    /// Make a replica
    Init {
        /// The file to make
        file: PathBuf,
    },
    /// Subscribe to a shape: its rows come with the next sync
    Subscribe(SubscribeArgs),
    /// Let go of a shape: its rows leave the replica, writes under way do not
    Unsubscribe {
        /// The replica's file
        file: PathBuf,
        /// The subscription's number, as `replica status` gives it
        number: u8,
    },
    /// Connect, send what is pending and fetch what is new
    Sync(SyncArgs),
    /// Show what is subscribed, pending and refused
    Status {
        /// The replica's file
        file: PathBuf,
    },
    /// Run SQL on the replica, as one transaction, and print the rows
    Sql {
        /// The replica's file
        file: PathBuf,
        /// The SQL
        sql: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum OutboxCommand {
    /// Show the transactions that wait for the service, oldest first
    List {
        /// The replica's file
        file: PathBuf,
    },
    /// Write what waits to a new file; it stays in the replica
    Export {
        /// The replica's file
        file: PathBuf,
        /// The file to make
        to: PathBuf,
    },
    /// Take in what another replica of the same store has exported, as writes of this one
    Import {
        /// The replica's file
        file: PathBuf,
        /// The exported file
        from: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SubscribeArgs {
    /// The replica's file
    pub(crate) file: PathBuf,
    /// The table
    #[arg(required_unless_present = "shape")]
    pub(crate) table: Option<String>,
    /// A shape that the service's configuration names, instead of a table
    #[arg(long, value_name = "NAME", conflicts_with_all = ["table", "filter", "columns"])]
    pub(crate) shape: Option<String>,
    /// Which rows: a condition in SQL, such as `owner = :me`
    #[arg(long = "where", value_name = "SQL")]
    pub(crate) filter: Option<String>,
    /// Which columns, separated by commas; the key comes along in any case
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub(crate) columns: Vec<String>,
    /// The value of a parameter of the condition, as `name=value`
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = parameter)]
    pub(crate) parameters: Vec<(String, Value)>,
}

impl SubscribeArgs {
    /// The shape asked for.
    pub(crate) fn request(self) -> ShapeRequest {
        let parameters = self.parameters;
        match self.shape {
            Some(name) => ShapeRequest::Named { name, parameters },
            None => ShapeRequest::Spelled {
                table: self.table.unwrap_or_default(),
                filter: self.filter,
                columns: self.columns,
                parameters,
            },
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct SyncArgs {
    /// The replica's file
    pub(crate) file: PathBuf,
    /// The service, as `ws://host:4600/v1/sync`
    #[arg(long, value_name = "URL", env = "ANABRANCH_URL")]
    pub(crate) url: String,
    /// What the service asks for, if anything
    #[arg(
        long,
        value_name = "TOKEN",
        env = "ANABRANCH_TOKEN",
        hide_env_values = true,
        default_value = ""
    )]
    pub(crate) token: String,
    /// Whom the file belongs to, where it belongs to somebody
    #[arg(long, value_name = "FINGERPRINT")]
    pub(crate) principal: Option<Fingerprint>,
    /// Stay connected and print what changes, until interrupted
    #[arg(long)]
    pub(crate) watch: bool,
    /// Give up after so many seconds without progress
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The replica's file
    pub(crate) file: PathBuf,
    /// Repair what can be repaired; without, nothing is changed
    #[arg(long)]
    pub(crate) repair: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The replica's file
    pub(crate) file: PathBuf,
    /// Show the rows of this table, with their clocks
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: Option<String>,
    /// Show this row only: its key, the parts of a composite one separated by commas
    #[arg(long, value_name = "KEY", requires = "table")]
    pub(crate) key: Option<String>,
}

/// Parses `name=value`. The value stays text, which the condition reads as the column's type.
fn parameter(text: &str) -> Result<(String, Value), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), Value::text(value))),
        _ => Err("write it as name=value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_shape_is_named_or_spelled_out() {
        let typed = |line: &str| {
            let words = line.split('|');
            let Command::Replica(ReplicaCommand::Subscribe(args)) =
                Cli::try_parse_from(words).unwrap().command
            else {
                panic!("{line} is no subscribe");
            };
            args.request()
        };
        let me = vec![("me".to_owned(), Value::text("a=b"))];
        assert_eq!(
            typed("anabranch|replica|subscribe|f.db|--shape|mine|--param|me=a=b"),
            ShapeRequest::Named {
                name: "mine".into(),
                parameters: me.clone()
            }
        );
        assert_eq!(
            typed(
                "anabranch|replica|subscribe|f.db|t|--where|o = :me|--param|me=a=b|--columns|a,b"
            ),
            ShapeRequest::Spelled {
                table: "t".into(),
                filter: Some("o = :me".into()),
                columns: vec!["a".into(), "b".into()],
                parameters: me,
            }
        );
    }
}
