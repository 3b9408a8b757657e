//! `anabranch replica`: makes a replica, subscribes it, shows how it is doing, runs SQL on it.

use std::path::Path;

use anabranch_crdt::Value;
use anabranch_protocol::{ShapeRequest, SubscriptionId};
use anabranch_replica::{
    OpenOptions, Principal, Replica, SubscriptionStatus, TransactionError, tables::values::from_sql,
};

use rusqlite::{Batch, Connection, Statement, fallible_iterator::FallibleIterator};
use serde_json::{Value as Json, json};

use super::sync;
use crate::{
    args::{ReplicaCommand, SubscribeArgs},
    failure::Failure,
    on_tokio,
    print::{count, json_value, literal, moment, plain, table},
};

/// Runs a command on a replica.
pub(crate) fn run(command: ReplicaCommand, json: bool) -> Result<(), Failure> {
    match command {
        ReplicaCommand::Init { file } => init(&file, json),
        ReplicaCommand::Subscribe(args) => subscribe(args, json),
        ReplicaCommand::Unsubscribe { file, number } => unsubscribe(&file, number, json),
        ReplicaCommand::Sync(args) => on_tokio(sync::run(args, json)),
        ReplicaCommand::Status { file } => status(&file, json),
        ReplicaCommand::Sql { file, sql } => run_sql(&file, &sql, json),
    }
}

/// Opens a replica that is there already: a misspelt name must not make a new one.
pub(crate) fn open(file: &Path) -> Result<Replica, Failure> {
    open_for(file, Principal::Owner)
}

/// The same, for somebody.
pub(crate) fn open_for(file: &Path, principal: Principal) -> Result<Replica, Failure> {
    must_exist(file)?;
    let options = OpenOptions {
        principal,
        ..OpenOptions::system()
    };
    Ok(Replica::open(file, options)?)
}

/// Refuses a file that is not there.
pub(crate) fn must_exist(file: &Path) -> Result<(), Failure> {
    if !file.exists() {
        let file = file.display();
        return Err(
            Failure::new(format!("there is no file {file}")).advising(format!(
                "make a replica with `anabranch replica init {file}`"
            )),
        );
    }
    Ok(())
}

fn init(file: &Path, json: bool) -> Result<(), Failure> {
    if file.exists() {
        return Err(Failure::new(format!("{} is there already", file.display()))
            .advising("name another file, or use the one that is there"));
    }
    let replica = Replica::open(file, OpenOptions::system())?;
    if json {
        println!("{}", json!({ "replica": replica.id().to_string() }));
    } else {
        let shown = file.display();
        println!("made replica {} in {shown}", replica.id());
        println!("next: anabranch replica subscribe {shown} TABLE");
    }
    Ok(())
}

fn subscribe(args: SubscribeArgs, json: bool) -> Result<(), Failure> {
    let mut replica = open(&args.file)?;
    let shown = args.file.display().to_string();
    let request = args.request();
    let id = replica.subscribe(&request)?;
    if json {
        println!("{}", json!({ "subscription": id.number() }));
    } else {
        println!("subscription {}: {}", id.number(), spelled(&request));
        println!("next: anabranch replica sync {shown} --url ws://...");
    }
    Ok(())
}

fn unsubscribe(file: &Path, number: u8, json: bool) -> Result<(), Failure> {
    let mut replica = open(file)?;
    let missing = || {
        Failure::new(format!("there is no subscription {number}")).advising(format!(
            "`anabranch replica status {}` lists them",
            file.display()
        ))
    };
    let id = SubscriptionId::new(number).ok_or_else(missing)?;
    let held = replica.subscriptions()?;
    let subscription = held.iter().find(|held| held.id == id).ok_or_else(missing)?;
    replica.unsubscribe(id)?;
    if json {
        println!("{}", json!({ "unsubscribed": number }));
    } else {
        println!(
            "let go of subscription {number}: {}",
            spelled(&subscription.shape)
        );
    }
    Ok(())
}

fn status(file: &Path, json: bool) -> Result<(), Failure> {
    let replica = open(file)?;
    let status = replica.status()?;
    if json {
        let report = json!({
            "replica": replica.id().to_string(),
            "schema_version": status.schema_version,
            "pending": status.pending,
            "rejected": status.rejected,
            "last_synced_ms": status.last_synced.map(|at| at.0),
            "clock_offset_ms": status.clock_offset_ms,
            "subscriptions": subscriptions_json(&status.subscriptions),
        });
        println!("{report}");
        return Ok(());
    }
    println!("replica      {}", replica.id());
    let synced = status
        .last_synced
        .map_or_else(|| "never".to_owned(), moment);
    println!("last synced  {synced}");
    println!("pending      {}", count_of(status.pending, "transaction"));
    println!("rejected     {}", count_of(status.rejected, "transaction"));
    print!("\n{}", subscriptions_text(&status.subscriptions));
    Ok(())
}

/// A count with its noun.
pub(super) fn count_of(number: u64, noun: &str) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), noun)
}

/// The subscriptions, as people read them.
pub(crate) fn subscriptions_text(subscriptions: &[SubscriptionStatus]) -> String {
    if subscriptions.is_empty() {
        return "no subscriptions\n".to_owned();
    }
    let row = |status: &SubscriptionStatus| {
        let number = status.subscription.id.number().to_string();
        vec![
            number,
            spelled(&status.subscription.shape),
            progress(status),
        ]
    };
    let rows: Vec<Vec<String>> = subscriptions.iter().map(row).collect();
    table(&["subscription", "shape", "state"], &rows)
}

/// The subscriptions, as programs read them.
pub(crate) fn subscriptions_json(subscriptions: &[SubscriptionStatus]) -> Json {
    let entry = |status: &SubscriptionStatus| {
        json!({
            "number": status.subscription.id.number(),
            "shape": spelled(&status.subscription.shape),
            "position": status.subscription.cursor.map(|cursor| cursor.position.0),
            "refused": status.refused,
        })
    };
    subscriptions.iter().map(entry).collect()
}

fn progress(status: &SubscriptionStatus) -> String {
    match (&status.refused, status.subscription.cursor) {
        (Some(reason), _) => format!("refused: {reason}"),
        (None, _) if status.rows_staged > 0 => {
            format!(
                "fetching: {} of about {}",
                status.rows_staged, status.rows_estimate
            )
        }
        (None, Some(cursor)) => format!("complete, at position {}", cursor.position.0),
        (None, None) => "not fetched yet".to_owned(),
    }
}

/// A shape as it would be typed.
pub(crate) fn spelled(request: &ShapeRequest) -> String {
    let (mut text, parameters) = match request {
        ShapeRequest::Named { name, parameters } => (format!("--shape {name}"), parameters),
        ShapeRequest::Spelled {
            table,
            filter,
            columns,
            parameters,
        } => {
            let mut text = table.clone();
            if !columns.is_empty() {
                text.push_str(&format!(" ({})", columns.join(", ")));
            }
            if let Some(filter) = filter {
                text.push_str(&format!(" where {filter}"));
            }
            (text, parameters)
        }
    };
    for (name, value) in parameters {
        text.push_str(&format!(" :{name} = {}", literal(value)));
    }
    text
}

/// The rows of one statement.
struct ResultSet {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

fn run_sql(file: &Path, sql: &str, json: bool) -> Result<(), Failure> {
    let mut replica = open(file)?;
    let committed = replica.transaction(|tx| run_batch(tx, sql));
    let committed = committed.map_err(|error: TransactionError<rusqlite::Error>| match error {
        TransactionError::Work(error) => Failure::new(error.to_string())
            .advising("nothing was written; mend the SQL and run it again"),
        other => Failure::of(other),
    })?;
    let number = committed.seq.map(|seq| seq.0);
    if json {
        let results: Vec<Json> = committed.value.iter().map(ResultSet::to_json).collect();
        println!("{}", json!({ "results": results, "transaction": number }));
        return Ok(());
    }
    for set in &committed.value {
        print!("{}", set.to_text());
        println!("({})", count(set.rows.len(), "row"));
    }
    if let Some(number) = number {
        println!("committed as transaction {number}, pending until the next sync");
    }
    Ok(())
}

fn run_batch(conn: &Connection, sql: &str) -> Result<Vec<ResultSet>, rusqlite::Error> {
    let mut batch = Batch::new(conn, sql);
    let mut sets = Vec::new();
    while let Some(mut statement) = batch.next()? {
        if statement.column_count() > 0 {
            sets.push(read(&mut statement)?);
        } else {
            statement.execute([])?;
        }
    }
    Ok(sets)
}

fn read(statement: &mut Statement<'_>) -> Result<ResultSet, rusqlite::Error> {
    let columns: Vec<String> = statement
        .column_names()
        .into_iter()
        .map(str::to_owned)
        .collect();
    let mut rows = Vec::new();
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let values = (0..columns.len()).map(|index| row.get_ref(index).map(from_sql));
        rows.push(values.collect::<Result<_, _>>()?);
    }
    drop(found);
    Ok(ResultSet { columns, rows })
}

impl ResultSet {
    fn to_text(&self) -> String {
        let texts = |row: &Vec<Value>| row.iter().map(plain).collect();
        let rows: Vec<Vec<String>> = self.rows.iter().map(texts).collect();
        table(&self.columns, &rows)
    }

    fn to_json(&self) -> Json {
        let values = |row: &Vec<Value>| row.iter().map(json_value).collect::<Json>();
        let rows: Vec<Json> = self.rows.iter().map(values).collect();
        json!({ "columns": self.columns, "rows": rows })
    }
}
