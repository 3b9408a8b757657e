//! `anabranch install` and `anabranch uninstall`: what Anabranch keeps in a Postgres database.

use anabranch_service::config::Config;
use serde_json::json;

use crate::{
    args::{InstallArgs, UninstallArgs},
    failure::Failure,
    print::count,
    store,
};

/// Sets a database up.
pub(crate) async fn install(args: InstallArgs, json: bool) -> Result<(), Failure> {
    let chosen = (!args.tables.all).then_some(args.tables.tables);
    let config = args.config.as_deref().map(Config::read).transpose();
    let rules = config.map_err(Failure::of)?.map(|config| config.rules);
    let rules = rules.unwrap_or_default();
    let tables = store::install_postgres(&args.postgres.url, chosen, &rules).await?;
    if json {
        println!("{}", json!({ "installed": tables }));
        return Ok(());
    }
    println!(
        "{} under replication: {}",
        count(tables.len(), "table"),
        tables.join(", ")
    );
    println!("next: anabranch serve, with `store.postgres` in its configuration");
    Ok(())
}

/// Removes every trace.
pub(crate) async fn uninstall(args: UninstallArgs, json: bool) -> Result<(), Failure> {
    anabranch_postgres::uninstall(&args.postgres.url, &args.slot).await?;
    if json {
        println!("{}", json!({ "uninstalled": true }));
    } else {
        println!(
            "removed: triggers, publication, replication slot and side tables; your tables stay"
        );
    }
    Ok(())
}
