//! The rules that are declared for tables, kept in `anabranch.tables` by column number.

use std::collections::BTreeMap;

use anabranch_crdt::{MergeKind, TableId};
use anabranch_shape::{
    Dialect,
    rules::{Rules, check_kinds},
    schema::{DeletePolicy, ReferencePolicy, Schema, Table},
};
use anabranch_store::StoreError;
use tokio_postgres::Transaction;

use crate::{
    catalog::{COLUMNS_SQL, FOREIGN_KEYS_SQL, PgTable, TABLES_SQL, assemble, field, table_number},
    errors::store_error,
    install::installation_error,
};

/// Declares `rules` in an installation under way. Nothing is declared unless all of it can be.
pub(crate) async fn declare(work: &Transaction<'_>, rules: &Rules) -> Result<(), StoreError> {
    const PUT: &str = "update anabranch.tables set rules = $2::text::jsonb where table_id = $1";
    const PREPARE: &str = "select anabranch.prepare_trigger(relid, table_id) from anabranch.tables \
                           where table_id = $1";
    if rules.is_empty() {
        return Ok(());
    }
    let held = schema(work).await?;
    let mut wanted = held.clone();
    let problems = rules.apply(&mut wanted, Dialect::Postgres);
    if !problems.is_empty() {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        return Err(StoreError::Misconfigured(problems.join("; ")));
    }
    if is_served(work).await? {
        check_kinds(&held, &wanted)
            .map_err(|error| StoreError::Misconfigured(error.to_string()))?;
    }
    for (before, table) in held.tables.iter().zip(&wanted.tables) {
        if before == table {
            continue;
        }
        let number = table_number(table.id)?;
        work.execute(PUT, &[&number, &encoded(table)])
            .await
            .map_err(|error| store_error(&error))?;
        work.execute(PREPARE, &[&number])
            .await
            .map_err(|error| installation_error(&error))?;
    }
    Ok(())
}

/// The schema, version left at 0.
async fn schema(work: &Transaction<'_>) -> Result<Schema, StoreError> {
    let mut rows = Vec::with_capacity(3);
    for sql in [TABLES_SQL, COLUMNS_SQL, FOREIGN_KEYS_SQL] {
        let read = work.query(sql, &[]).await;
        rows.push(read.map_err(|error| store_error(&error))?);
    }
    let part = |index| rows.get(index).map_or(&[][..], Vec::as_slice);
    let tables: BTreeMap<TableId, PgTable> = assemble(part(0), part(1), part(2))?;
    let tables = tables.into_values().map(|table| table.table);
    Ok(Schema {
        version: 0,
        tables: tables.collect(),
    })
}

/// Whether a service has ever read the catalogue: then replicas may hold rows.
async fn is_served(work: &Transaction<'_>) -> Result<bool, StoreError> {
    let sql = "select schema_version > 0 as served from anabranch.meta";
    let row = work.query_one(sql, &[]).await;
    field(&row.map_err(|error| store_error(&error))?, "served")
}

/// The rules of a table that differ from the usual ones, as JSON.
fn encoded(table: &Table) -> String {
    let pairs = |pairs: Vec<(String, &str)>| {
        let pairs = pairs
            .iter()
            .map(|(key, word)| format!("\"{key}\": \"{word}\""));
        pairs.collect::<Vec<_>>().join(", ")
    };
    let merges = table.columns.iter();
    let merges = merges.filter(|column| column.merge != MergeKind::Register);
    let merges = merges.map(|column| (column.id.0.to_string(), column.merge.word()));
    let policies = table.foreign_keys.iter();
    let policies = policies.filter(|key| key.policy != ReferencePolicy::Revive);
    let policies = policies.map(|key| {
        let columns: Vec<String> = key.columns.iter().map(|id| id.0.to_string()).collect();
        (columns.join(","), key.policy.word())
    });
    let mut parts = vec![
        format!("\"merge\": {{{}}}", pairs(merges.collect())),
        format!("\"reference\": {{{}}}", pairs(policies.collect())),
    ];
    if table.delete != DeletePolicy::Observed {
        parts.push(format!("\"delete\": \"{}\"", table.delete.word()));
    }
    format!("{{{}}}", parts.join(", "))
}
