//! Where Postgres is and how sessions there are set up.

use std::str::FromStr as _;

use anabranch_shape::rules::Rules;
use anabranch_store::StoreError;
use tokio_postgres::{Config, config::SslMode};

use crate::limits;

/// What the store must be told.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Where Postgres is: a URL (`postgres://user@host/database`) or `key=value` pairs.
    pub url: String,
    /// The replication slot to follow the log by; one service, one slot.
    pub slot: String,
    /// Rules to declare before anything is served, for the tables that they name.
    pub rules: Rules,
}

impl PostgresOptions {
    /// The store at `url`, with the slot `anabranch`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            slot: "anabranch".to_owned(),
            rules: Rules::new(),
        }
    }
}

/// The publication that the log is read through.
pub(crate) const PUBLICATION: &str = "anabranch";

/// Settings that decide how Postgres writes values as text: the same for queries and for the log,
/// or one value would have two texts. The trigger function pins the same ones.
pub(crate) const TEXT_SETTINGS: [(&str, &str); 6] = [
    ("bytea_output", "hex"),
    ("datestyle", "ISO,DMY"),
    ("extra_float_digits", "1"),
    ("intervalstyle", "iso_8601"),
    ("standard_conforming_strings", "on"),
    ("timezone", "UTC"),
];

/// The connection parameters in `url`, with the sessions' settings.
pub(crate) fn parse(url: &str) -> Result<Config, StoreError> {
    let mut config = Config::from_str(url).map_err(|error| {
        StoreError::Misconfigured(format!(
            "the Postgres URL cannot be read: {error}; write postgres://user@host:5432/database"
        ))
    })?;
    if config.get_ssl_mode() == SslMode::Require {
        return Err(StoreError::Misconfigured(
            "this build reaches Postgres without TLS only; leave sslmode=require out of the URL, \
             and keep the connection on one machine or a private network"
                .to_owned(),
        ));
    }
    config.ssl_mode(SslMode::Disable);
    let mut options = config
        .get_options()
        .map(|given| format!("{given} "))
        .unwrap_or_default();
    let settings = TEXT_SETTINGS.map(|(name, value)| format!("-c {name}={value}"));
    options.push_str(&settings.join(" "));
    config.options(options);
    if config.get_application_name().is_none() {
        config.application_name("anabranch");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(limits::CONNECT_TIMEOUT);
    }
    Ok(config)
}

/// The name of a slot, if Postgres takes it.
pub(crate) fn slot_name(name: &str) -> Result<&str, StoreError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if (1..=63).contains(&name.len()) && name.chars().all(allowed) {
        return Ok(name);
    }
    Err(StoreError::Misconfigured(format!(
        "{name:?} cannot name a replication slot: use up to 63 lower-case letters, digits and \
         underscores"
    )))
}
