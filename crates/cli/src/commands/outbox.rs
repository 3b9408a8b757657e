//! `anabranch outbox` and `anabranch backup`: what a file has not sent, and the file itself, carried to
//! another.

use std::path::Path;

use anabranch_protocol::Seq;
use serde_json::{Value as Json, json};

use super::{
    inspect::{OUTBOX_BYTES_SHOWN, transaction_json, transaction_text},
    replica::{count_of, open},
};
use crate::{args::OutboxCommand, failure::Failure};

/// Runs a command on an outbox.
pub(crate) fn run(command: &OutboxCommand, json: bool) -> Result<(), Failure> {
    match command {
        OutboxCommand::List { file } => list(file, json),
        OutboxCommand::Export { file, to } => export(file, to, json),
        OutboxCommand::Import { file, from } => import(file, from, json),
    }
}

/// Copies a replica's file.
pub(crate) fn backup(file: &Path, to: &Path, json: bool) -> Result<(), Failure> {
    let mut replica = open(file)?;
    must_be_new(to)?;
    replica.backup_to(to)?;
    let shown = to.display();
    if json {
        println!("{}", json!({ "backup": shown.to_string() }));
    } else {
        println!("copied to {shown}; opened, it is a replica of its own");
    }
    Ok(())
}

fn list(file: &Path, json: bool) -> Result<(), Failure> {
    let mut replica = open(file)?;
    replica.seal()?;
    let pending = replica.status()?.pending;
    let waiting = replica.pending(Seq(0), OUTBOX_BYTES_SHOWN)?;
    let schema = replica.schema();
    if json {
        let outbox: Json = waiting
            .iter()
            .map(|transaction| transaction_json(schema, transaction))
            .collect();
        println!("{}", json!({ "pending": pending, "outbox": outbox }));
        return Ok(());
    }
    println!("{} pending", count_of(pending, "transaction"));
    for transaction in &waiting {
        print!("{}", transaction_text(schema, transaction));
    }
    if u64::try_from(waiting.len()).is_ok_and(|shown| shown < pending) {
        println!("  and more");
    }
    Ok(())
}

fn export(file: &Path, to: &Path, json: bool) -> Result<(), Failure> {
    let mut replica = open(file)?;
    must_be_new(to)?;
    let count = replica.export_outbox_to(to)?;
    if json {
        println!("{}", json!({ "exported": count }));
    } else {
        let exported = count_of(count, "transaction");
        println!("exported {exported} to {}; still here too", to.display());
    }
    Ok(())
}

fn import(file: &Path, from: &Path, json: bool) -> Result<(), Failure> {
    let mut replica = open(file)?;
    let exported = std::fs::read(from).map_err(|error| {
        Failure::new(format!("{} cannot be read: {error}", from.display()))
            .advising("name a file that `anabranch outbox export` has made")
    })?;
    let count = replica.import_outbox(&exported)?;
    if json {
        println!("{}", json!({ "imported": count }));
    } else {
        let imported = count_of(count, "transaction");
        println!("imported {imported}; the next sync sends them");
    }
    Ok(())
}

/// Refuses to write over a file.
fn must_be_new(file: &Path) -> Result<(), Failure> {
    if file.exists() {
        let what = format!("{} is there already", file.display());
        return Err(Failure::new(what).advising("name a new file"));
    }
    Ok(())
}
