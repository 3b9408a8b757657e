//! `anabranch inspect`: what a replica holds, down to who wrote which value when.

mod columns;

use anabranch_crdt::{Life, ReplicaId, RowKey, RowState, Value};
use anabranch_protocol::{LocalTransaction, Seq};
use anabranch_replica::{RejectedTransaction, Replica};
use anabranch_shape::schema::{ColumnType, Schema, Table};
use serde_json::{Map, Value as Json, json};

use super::replica::{open, subscriptions_json, subscriptions_text};
use crate::{
    args::InspectArgs,
    failure::Failure,
    print::{
        author, count, json_stamp, json_value, literal, moment, plain, reading, table as lines_of,
    },
};

/// Looks into a replica.
pub(crate) fn run(args: &InspectArgs, json: bool) -> Result<(), Failure> {
    let mut replica = open(&args.file)?;
    match (&args.table, &args.key) {
        (None, _) => overview(&mut replica, json),
        (Some(name), None) => rows(&mut replica, name, json),
        (Some(name), Some(key)) => row(&mut replica, name, key, json),
    }
}

fn overview(replica: &mut Replica, json: bool) -> Result<(), Failure> {
    let schema = replica.schema().clone();
    let mut tables = Vec::new();
    for table in &schema.tables {
        let states = replica.row_states(&table.local_name())?;
        let present = states
            .iter()
            .filter(|(_, state)| state.existence().is_present())
            .count();
        tables.push((table, present, states.len().saturating_sub(present)));
    }
    let status = replica.status()?;
    let outbox = replica.pending(Seq(0), OUTBOX_BYTES_SHOWN)?;
    let rejected = replica.rejected_list()?;
    if json {
        let table = |(table, rows, removed): &(&Table, usize, usize)| json!({ "name": table.local_name(), "rows": rows, "removed": removed, "kinds": columns::kinds(table).into_iter().collect::<std::collections::BTreeMap<_, _>>() });
        let report = json!({
            "replica": replica.id().to_string(),
            "schema_version": schema.version,
            "tables": tables.iter().map(table).collect::<Json>(),
            "subscriptions": subscriptions_json(&status.subscriptions),
            "pending": status.pending,
            "outbox": outbox.iter().map(|tx| transaction_json(&schema, tx)).collect::<Json>(),
            "rejected": rejected.iter().map(|tx| rejected_json(&schema, tx)).collect::<Json>(),
        });
        println!("{report}");
        return Ok(());
    }
    println!(
        "replica {}, schema version {}\n",
        replica.id(),
        schema.version
    );
    let line = |(table, rows, removed): &(&Table, usize, usize)| {
        let kinds = columns::kinds(table).into_iter();
        let kinds: Vec<String> = kinds
            .map(|(name, kind)| format!("{name}: {kind}"))
            .collect();
        vec![
            table.local_name(),
            rows.to_string(),
            removed.to_string(),
            kinds.join(", "),
        ]
    };
    let lines: Vec<Vec<String>> = tables.iter().map(line).collect();
    print!(
        "{}",
        lines_of(&["table", "rows", "removed", "counters and sets"], &lines)
    );
    print!("\n{}", subscriptions_text(&status.subscriptions));
    print!("\noutbox: {} pending\n", status.pending);
    for transaction in &outbox {
        print!("{}", transaction_text(&schema, transaction));
    }
    println!("\nrejected: {}", rejected.len());
    for refused in &rejected {
        println!(
            "  at {}: {:?}: {}",
            moment(refused.at),
            refused.code,
            refused.reason
        );
        print!("{}", transaction_text(&schema, &refused.transaction));
    }
    Ok(())
}

/// A transaction, as people read it.
pub(super) fn transaction_text(schema: &Schema, transaction: &LocalTransaction) -> String {
    let rows = count(transaction.deltas.len(), "row");
    let mut text = format!(
        "  transaction {}, {}: {rows}\n",
        transaction.seq.0,
        reading(transaction.stamp.hlc)
    );
    for (name, key, writes) in written(schema, transaction) {
        text.push_str(&format!("    {name} {key}: {}\n", writes.join(", ")));
    }
    text
}

/// What a transaction does to each of its rows.
fn written<'a>(
    schema: &'a Schema,
    transaction: &'a LocalTransaction,
) -> impl Iterator<Item = (String, String, Vec<String>)> + 'a {
    transaction.deltas.iter().map(|delta| {
        let table = schema.table(delta.table);
        let name = table.map_or_else(|| format!("table {}", delta.table.0), Table::local_name);
        let cell = |(column, _, value): (_, _, &Value)| {
            let known = table.and_then(|table| table.column(column));
            let column = known.map_or_else(|| "?".to_owned(), |column| column.name.clone());
            format!("{column} = {}", literal(value))
        };
        let mut writes: Vec<String> = delta.state.cells().map(cell).collect();
        writes.extend(columns::writes(table, &delta.state));
        if !delta.state.existence().is_empty() && !delta.state.existence().is_present() {
            writes.push("delete".to_owned());
        } else if writes.is_empty() {
            writes.push("keep".to_owned());
        }
        (name, key_text(&delta.key), writes)
    })
}

/// A transaction, for programs.
pub(super) fn transaction_json(schema: &Schema, transaction: &LocalTransaction) -> Json {
    let write = |(table, key, writes): (String, String, Vec<String>)| json!({ "table": table, "key": key, "writes": writes });
    json!({
        "number": transaction.seq.0,
        "stamp": json_stamp(transaction.stamp),
        "rows": written(schema, transaction).map(write).collect::<Json>(),
    })
}

fn rejected_json(schema: &Schema, rejected: &RejectedTransaction) -> Json {
    json!({
        "code": format!("{:?}", rejected.code),
        "reason": rejected.reason,
        "at_ms": rejected.at.0,
        "transaction": transaction_json(schema, &rejected.transaction),
    })
}

fn rows(replica: &mut Replica, name: &str, json: bool) -> Result<(), Failure> {
    let table = table_named(replica, name)?;
    let states = replica.row_states(&table.local_name())?;
    let newest = |state: &RowState| {
        let stamps = state.clock().registers().iter().map(|(_, stamp)| *stamp);
        let others = state.clock().columns().iter();
        let stamps = stamps.chain(others.flat_map(|(_, other)| other.stamps()));
        let entries = state.existence().entries().iter().map(|entry| entry.stamp);
        stamps.chain(entries).max()
    };
    if json {
        let row = |(key, state): &(RowKey, RowState)| {
            json!({
                "key": key_text(key),
                "present": state.existence().is_present(),
                "newest": newest(state).map(json_stamp),
            })
        };
        let rows: Json = states.iter().map(row).collect();
        println!("{}", json!({ "table": table.local_name(), "rows": rows }));
        return Ok(());
    }
    let here = Some(replica.id());
    let line = |(key, state): &(RowKey, RowState)| {
        let stamp = newest(state);
        vec![
            key_text(key),
            if state.existence().is_present() {
                "present"
            } else {
                "removed"
            }
            .to_owned(),
            stamp.map(|stamp| reading(stamp.hlc)).unwrap_or_default(),
            stamp
                .map(|stamp| author(stamp.replica, here))
                .unwrap_or_default(),
        ]
    };
    let lines: Vec<Vec<String>> = states.iter().map(line).collect();
    print!(
        "{}",
        lines_of(&["key", "state", "newest write", "by"], &lines)
    );
    Ok(())
}

fn row(replica: &mut Replica, name: &str, key: &str, json: bool) -> Result<(), Failure> {
    let table = table_named(replica, name)?;
    let key = parse_key(&table, key)?;
    let state = replica
        .row_state(&table.local_name(), &key)?
        .ok_or_else(|| {
            Failure::new(format!(
                "{} has no row {}",
                table.local_name(),
                key_text(&key)
            ))
            .advising(format!("`--table {name}` without `--key` lists the rows"))
        })?;
    if json {
        println!("{}", row_json(&table, &key, &state));
    } else {
        print!("{}", row_text(&table, &key, &state, replica.id()));
    }
    Ok(())
}

fn row_text(table: &Table, key: &RowKey, state: &RowState, here: ReplicaId) -> String {
    let presence = if state.existence().is_present() {
        "present"
    } else {
        "removed"
    };
    let mut text = format!("{} {}: {presence}\n\n", table.local_name(), key_text(key));
    let register = |(column, stamp, value): (_, anabranch_crdt::Stamp, &Value)| {
        let name = table
            .column(column)
            .map_or("?", |column| &column.name)
            .to_owned();
        vec![
            name,
            plain(value),
            reading(stamp.hlc),
            author(stamp.replica, Some(here)),
        ]
    };
    let lines: Vec<Vec<String>> = state.cells().map(register).collect();
    text.push_str(&lines_of(&["register", "value", "written", "by"], &lines));
    text.push('\n');
    text.push_str(&columns::text(table, state, here));
    let entry = |entry: &anabranch_crdt::Entry| {
        let life = if entry.life == Life::Live {
            "live"
        } else {
            "removed"
        };
        let stamp = entry.stamp;
        vec![
            life.to_owned(),
            reading(stamp.hlc),
            author(stamp.replica, Some(here)),
        ]
    };
    let lines: Vec<Vec<String>> = state.existence().entries().iter().map(entry).collect();
    text.push_str(&lines_of(&["existence", "added", "by"], &lines));
    text
}

fn row_json(table: &Table, key: &RowKey, state: &RowState) -> Json {
    let register = |(column, stamp, value): (_, _, &Value)| {
        let name = table
            .column(column)
            .map_or("?", |column| &column.name)
            .to_owned();
        (
            name,
            json!({ "value": json_value(value), "stamp": json_stamp(stamp) }),
        )
    };
    let registers: Map<String, Json> = state.cells().map(register).collect();
    json!({
        "table": table.local_name(),
        "key": key_text(key),
        "present": state.existence().is_present(),
        "registers": registers,
        "columns": columns::json(table, state),
        "existence": columns::existence_json(state.existence()),
    })
}

fn table_named(replica: &Replica, name: &str) -> Result<Table, Failure> {
    replica.schema().table_named(name).cloned().ok_or_else(|| {
        let names: Vec<String> = replica
            .schema()
            .tables
            .iter()
            .map(Table::local_name)
            .collect();
        let known = if names.is_empty() {
            "it has none yet: sync it first".to_owned()
        } else {
            format!("it has {}", names.join(", "))
        };
        Failure::new(format!("the replica has no table {name:?}")).advising(known)
    })
}

/// A key as it is typed: its parts separated by commas, with `\` before a comma within one.
pub(crate) fn key_text(key: &RowKey) -> String {
    let part = |value: &Value| plain(value).replace('\\', "\\\\").replace(',', "\\,");
    key.0.iter().map(part).collect::<Vec<_>>().join(",")
}

fn parse_key(table: &Table, text: &str) -> Result<RowKey, Failure> {
    let parts = split_key(text);
    let named: Vec<&str> = table
        .key_columns()
        .map(|column| column.name.as_str())
        .collect();
    if parts.len() != named.len() {
        let key = named.join(",");
        return Err(
            Failure::new(format!("{text:?} has {}", count(parts.len(), "part")))
                .advising(format!("the key of {} is {key}", table.local_name())),
        );
    }
    let values = table
        .key_columns()
        .zip(parts)
        .map(|(column, part)| match column.kind {
            ColumnType::Integer | ColumnType::Boolean => {
                part.parse().map(Value::Integer).map_err(|_| {
                    Failure::new(format!("{part:?} is no integer, as {} is", column.name))
                        .advising("list the rows of the table to see their keys")
                })
            }
            ColumnType::Float => Ok(part.parse().map_or(Value::Text(part), Value::real)),
            ColumnType::Uuid => Ok(Value::Text(part.to_ascii_lowercase())),
            _ => Ok(Value::Text(part)),
        });
    Ok(RowKey(values.collect::<Result<_, _>>()?))
}

fn split_key(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let literal = match character {
            ',' => {
                parts.push(String::new());
                continue;
            }
            '\\' => characters.next().unwrap_or('\\'),
            other => other,
        };
        if let Some(part) = parts.last_mut() {
            part.push(literal);
        }
    }
    parts
}

/// Bytes of the outbox that are shown: enough for a look, while an outbox may be large.
pub(super) const OUTBOX_BYTES_SHOWN: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_shown() {
        let key = RowKey(vec![
            Value::text("a,b"),
            Value::Integer(7),
            Value::text("\\"),
        ]);
        let text = key_text(&key);
        assert_eq!(text, "a\\,b,7,\\\\");
        assert_eq!(split_key(&text), ["a,b", "7", "\\"]);
    }
}
