//! What a private cluster can be asked for, and the configuration that follows from it.

use std::{fmt::Write, path::Path};

/// What a private cluster is to be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterOptions {
    /// How much the server's log tells.
    pub wal_level: WalLevel,
    /// Listen on a free TCP port of 127.0.0.1 too, where the superuser has this password
    /// (SCRAM-SHA-256). The Unix socket needs no password in any case.
    pub tcp_password: Option<String>,
    /// More settings for `postgresql.conf`, which win over the cluster's own.
    pub settings: Vec<(String, String)>,
}

/// How much the server's log tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WalLevel {
    /// Enough for logical replication.
    #[default]
    Logical,
    /// What Postgres does unless told otherwise: no logical replication.
    Replica,
}

impl ClusterOptions {
    pub(super) fn configuration(&self, directory: &Path, port: u16) -> String {
        let wal_level = match self.wal_level {
            WalLevel::Logical => "logical",
            WalLevel::Replica => "replica",
        };
        let listen_addresses = if self.tcp_password.is_some() {
            "127.0.0.1"
        } else {
            ""
        };
        let directory = directory.display().to_string();
        let port = port.to_string();
        let own = [
            ("listen_addresses", listen_addresses),
            ("port", &port),
            ("unix_socket_directories", &directory),
            ("wal_level", wal_level),
            ("max_wal_senders", "40"),
            ("max_replication_slots", "40"),
            ("max_connections", "200"),
            ("wal_sender_timeout", "5s"),
            // Commits still reach the operating system, so killing the server loses none of them.
            ("fsync", "off"),
            ("log_line_prefix", "%m [%p] %d "),
        ];
        let more = self
            .settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let mut text = String::new();
        for (name, value) in own.into_iter().chain(more) {
            let value = value.replace('\\', "\\\\").replace('\'', "''");
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name} = '{value}'");
        }
        text
    }
}
