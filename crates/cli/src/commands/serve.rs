//! `anabranch serve`: the service, from its configuration until a signal ends it.

use std::{io::IsTerminal, sync::Arc};

use anabranch_service::{
    Service,
    config::{Config, StoreConfig},
};
use anabranch_shape::schema::{Schema, Table};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{
    args::{LogFormat, ServeArgs},
    failure::Failure,
    store,
};

/// Serves until SIGINT or SIGTERM.
pub(crate) async fn run(args: ServeArgs, json: bool) -> Result<(), Failure> {
    start_log(args.log);
    let config = Config::read(&args.config).map_err(|error| {
        Failure::of(error)
            .advising("see the configuration in the documentation of `anabranch serve`")
    })?;
    let store = store::open(&config.store, &config.rules).await?;
    let schema = store.schema().await?;
    if schema.tables.is_empty() {
        return Err(
            Failure::new("the store has no table under replication").advising(match config.store {
                StoreConfig::Postgres { .. } => "run `anabranch install` on the database first",
                StoreConfig::Embedded { .. } => "give `store.schema`, SQL that makes its tables",
            }),
        );
    }
    let mut signals = Signals::listen()?;
    let shapes: Vec<String> = config.hub.shapes.keys().cloned().collect();
    let asks_for_token = config.hub.token.is_some();
    let service = Service::start(Arc::clone(&store), config.hub, config.listen);
    let mut service = service.await.map_err(Failure::of)?;
    if let Some(retention) = config.retention {
        service = service.forgetting_after(store, retention);
    }
    announce(&service.url(), &schema, &shapes, asks_for_token, json);
    signals.next().await;
    tracing::info!("stopping");
    service.stop().await;
    Ok(())
}

fn announce(url: &str, schema: &Schema, shapes: &[String], asks_for_token: bool, json: bool) {
    let tables: Vec<String> = schema.tables.iter().map(Table::local_name).collect();
    if json {
        println!(
            "{}",
            json!({ "url": url, "tables": tables, "shapes": shapes, "token": asks_for_token })
        );
        return;
    }
    println!("serving  {url}");
    println!("tables   {}", tables.join(", "));
    match shapes {
        [] => println!(
            "shapes   whatever replicas ask for; name some in the configuration to limit that"
        ),
        shapes => println!("shapes   {}", shapes.join(", ")),
    }
    if !asks_for_token {
        println!("token    none: anybody who reaches this address may read and write");
    }
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

/// The signals that ask the process to end.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::new(format!("cannot listen for signals: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
