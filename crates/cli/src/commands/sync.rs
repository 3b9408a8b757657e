//! `anabranch replica sync`: connects a replica, and stays until it is in step or is interrupted.

use std::{collections::BTreeSet, time::Duration};

use anabranch_client::{Client, ClientOptions, ConnectionState, Status};
use anabranch_replica::{Event, Origin, Principal};
use serde_json::json;
use tokio::{signal, time::timeout};

use super::replica::{open_for, subscriptions_json};
use crate::{args::SyncArgs, failure::Failure, print::count};

/// Syncs a replica.
pub(crate) async fn run(args: SyncArgs, json: bool) -> Result<(), Failure> {
    let principal = args.principal.map_or(Principal::Nobody, Principal::Is);
    let replica = open_for(&args.file, principal)?;
    let before = replica.status()?;
    let options = ClientOptions::new(args.url, args.token);
    let client = Client::start(replica, options);
    if args.watch {
        watch(&client, json).await?;
    } else {
        let settled = settle(&client, Duration::from_secs(args.timeout), json).await;
        let ended =
            settled.and_then(|status| ended(&status, before.pending, before.rejected, json));
        client.stop().await;
        return ended;
    }
    client.stop().await;
    Ok(())
}

/// Waits until the replica is in step; fails once it is clear that it cannot get there.
async fn settle(client: &Client, patience: Duration, quiet: bool) -> Result<Status, Failure> {
    let mut statuses = client.status();
    let mut retries = BTreeSet::new();
    loop {
        let status = statuses.borrow_and_update().clone();
        if let Some(failure) = final_failure(&status.connection) {
            return Err(failure);
        }
        match &status.connection {
            ConnectionState::Offline {
                reason: Some(reason),
                retry_at,
            } if retries.insert(*retry_at) && retries.len() > RETRIES_MAX => {
                return Err(Failure::new(reason.clone()).advising(
                    "see whether the service runs and the URL is right; nothing is lost meanwhile",
                ));
            }
            _ if status.is_settled() => return Ok(status),
            _ => {}
        }
        if !quiet {
            show_progress(&status);
        }
        match timeout(patience, statuses.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Failure::new("the sync task ended by itself")),
            Err(_) => {
                let seconds = patience.as_secs();
                return Err(Failure::new(format!("no progress for {seconds} s"))
                    .advising("wait longer with --timeout, or look at the service's log"));
            }
        }
    }
}

fn show_progress(status: &Status) {
    let fetching = status
        .subscriptions
        .iter()
        .filter(|held| held.rows_staged > 0);
    for held in fetching {
        let number = held.subscription.id.number();
        eprintln!(
            "subscription {number}: {} of about {} rows",
            held.rows_staged, held.rows_estimate
        );
    }
}

/// Says how the sync ended.
fn ended(
    status: &Status,
    pending_before: u64,
    rejected_before: u64,
    json: bool,
) -> Result<(), Failure> {
    let refused: Vec<String> = status
        .subscriptions
        .iter()
        .filter_map(|held| Some((held.subscription.id.number(), held.refused.as_ref()?)))
        .map(|(number, reason)| format!("subscription {number} was refused: {reason}"))
        .collect();
    if let Some(first) = refused.first() {
        return Err(Failure::of(first));
    }
    let rejected = status.rejected.saturating_sub(rejected_before);
    if json {
        let report = json!({
            "synced": true,
            "pushed": pending_before,
            "rejected": status.rejected,
            "subscriptions": subscriptions_json(&status.subscriptions),
        });
        println!("{report}");
        return Ok(());
    }
    let shapes = count(status.subscriptions.len(), "subscription");
    println!("in step: {shapes} complete, {pending_before} pushed, nothing pending");
    if rejected > 0 {
        eprintln!("{rejected} refused by the store and kept; see `anabranch inspect`");
    }
    Ok(())
}

/// Tells what happens until interrupted.
async fn watch(client: &Client, json: bool) -> Result<(), Failure> {
    let mut statuses = client.status();
    let mut last = None;
    loop {
        let status = statuses.borrow_and_update().clone();
        let line = summary(&status);
        if last.as_ref() != Some(&line) {
            if json {
                println!(
                    "{}",
                    json!({ "pending": status.pending, "rejected": status.rejected, "state": line })
                );
            } else {
                println!("{line}");
            }
            last = Some(line);
        }
        if let Some(failure) = final_failure(&status.connection) {
            return Err(failure);
        }
        tell_events(client, json);
        tokio::select! {
            changed = statuses.changed() => if changed.is_err() { return Ok(()) },
            () = tokio::time::sleep(EVENTS_INTERVAL) => {}
            _ = signal::ctrl_c() => return Ok(()),
        }
    }
}

/// Why no more is tried, where that is so.
fn final_failure(connection: &ConnectionState) -> Option<Failure> {
    match connection {
        ConnectionState::Refused { reason } => {
            Some(Failure::of(format!("the service refused: {reason}")))
        }
        ConnectionState::Stopped { reason } => Some(Failure::of(reason)),
        _ => None,
    }
}

fn summary(status: &Status) -> String {
    let pending = status.pending;
    match &status.connection {
        ConnectionState::Offline {
            reason: Some(reason),
            ..
        } => format!("offline: {reason}"),
        ConnectionState::Offline { reason: None, .. } => "offline".to_owned(),
        ConnectionState::Connecting => "connecting".to_owned(),
        ConnectionState::Refused { reason } => format!("refused: {reason}"),
        ConnectionState::Stopped { reason } => format!("stopped: {reason}"),
        ConnectionState::Connected if status.is_settled() => "in step".to_owned(),
        ConnectionState::Connected => format!("connected, {pending} pending"),
    }
}

fn tell_events(client: &Client, json: bool) {
    let mut replica = client.replica();
    for event in replica.take_events() {
        let line = match event {
            Event::Rows { origin, changes } => {
                let whose = if origin == Origin::Local {
                    "local"
                } else {
                    "remote"
                };
                format!("{whose}: {} changed", count(changes.len(), "row"))
            }
            Event::Accepted(seq) => format!("transaction {} accepted", seq.0),
            Event::Rejected { seq, reason, .. } => {
                format!("transaction {} refused: {reason}", seq.0)
            }
            _ => continue,
        };
        if json {
            println!("{}", json!({ "event": line }));
        } else {
            println!("{line}");
        }
    }
}

/// A service that is just starting turns replicas away for a moment; with the waits between, this is less
/// than two seconds.
const RETRIES_MAX: usize = 3;

/// How often changes are told while nothing else happens.
const EVENTS_INTERVAL: Duration = Duration::from_millis(250);
