//! Installation: the side tables, the trigger and the publication, in one transaction; and back.

use anabranch_shape::rules::Rules;
use anabranch_store::StoreError;
use tokio_postgres::{Client, Error, Transaction};

use crate::{
    catalog::{field, quote},
    config::{self, PUBLICATION},
    errors::{describe, store_error},
    pool::connect,
    rules,
    tailer::check_wal_level,
};

/// What Anabranch keeps in Postgres.
const SCHEMA: &str = include_str!("../../../schema/postgres.sql");

/// Postgres 14 is the first with `CREATE OR REPLACE TRIGGER` and messages in the log.
const SERVER_VERSION_MIN: i32 = 140_000;

/// Which tables to replicate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableSelection {
    /// Every ordinary table outside Postgres's own schemas.
    All,
    /// These, by name as SQL writes it: `items`, `app.items`, `"Items"`.
    Named(Vec<String>),
}

/// Installs Anabranch in the database at `url` and takes tables under replication; returns their
/// names. Can be run again, to upgrade or to add tables. Either all of it is done or nothing.
pub async fn install(url: &str, tables: &TableSelection) -> Result<Vec<String>, StoreError> {
    install_with(url, tables, &Rules::new()).await
}

/// The same, with rules for the tables that they name. How a column merges is fixed when its table is
/// first served; the other rules may change.
pub async fn install_with(
    url: &str,
    tables: &TableSelection,
    rules: &Rules,
) -> Result<Vec<String>, StoreError> {
    let mut client = connect(&config::parse(url)?).await?;
    check_server(&client).await?;
    let work = client
        .transaction()
        .await
        .map_err(|error| store_error(&error))?;
    let tables = resolve(&work, tables).await?;
    let names: Vec<String> = tables.iter().map(|table| table.name.clone()).collect();
    apply(&work, &tables)
        .await
        .map_err(|error| installation_error(&error))?;
    rules::declare(&work, rules).await?;
    work.commit()
        .await
        .map_err(|error| installation_error(&error))?;
    Ok(names)
}

/// Declares rules for tables that are installed.
pub async fn declare(url: &str, rules: &Rules) -> Result<(), StoreError> {
    if rules.is_empty() {
        return Ok(());
    }
    let mut client = connect(&config::parse(url)?).await?;
    let work = client
        .transaction()
        .await
        .map_err(|error| store_error(&error))?;
    rules::declare(&work, rules).await?;
    work.commit()
        .await
        .map_err(|error| installation_error(&error))
}

/// Takes everything out again: triggers, publication, side tables and the slot called `slot`.
/// The user's tables stay as they are.
pub async fn uninstall(url: &str, slot: &str) -> Result<(), StoreError> {
    let slot = config::slot_name(slot)?;
    let mut client = connect(&config::parse(url)?).await?;
    let work = client
        .transaction()
        .await
        .map_err(|error| store_error(&error))?;
    work.batch_execute(&uninstall_sql())
        .await
        .map_err(|error| installation_error(&error))?;
    work.commit()
        .await
        .map_err(|error| installation_error(&error))?;
    // A slot cannot be dropped by a transaction that has written, nor while it is read from.
    let sql = "select pg_drop_replication_slot(slot_name) from pg_replication_slots \
               where slot_name = $1 and database = current_database()";
    client
        .execute(sql, &[&slot])
        .await
        .map_err(|error| installation_error(&error))?;
    Ok(())
}

/// A table as it was asked for.
struct Target {
    oid: u32,
    name: String,
}

async fn check_server(client: &Client) -> Result<(), StoreError> {
    const SQL: &str = "select current_setting('server_version_num')::int as version, \
                       current_setting('wal_level') as wal_level";
    let row = client
        .query_one(SQL, &[])
        .await
        .map_err(|error| store_error(&error))?;
    let version: i32 = field(&row, "version")?;
    if version < SERVER_VERSION_MIN {
        return Err(StoreError::Misconfigured(format!(
            "this is Postgres {}; Anabranch needs 14 or later",
            version / 10_000
        )));
    }
    check_wal_level(field(&row, "wal_level")?)
}

/// The tables that are meant, if all of them can be replicated.
async fn resolve(
    work: &Transaction<'_>,
    selection: &TableSelection,
) -> Result<Vec<Target>, StoreError> {
    const NAMED: &str = "
        select u.name as asked, c.oid, u.name::text as name from unnest($1::text[]) as u (name)
        left join pg_class c on c.oid = to_regclass(u.name)";
    const ALL: &str = "
        select '' as asked, c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p') and c.relpersistence = 'p' and not c.relispartition
            and n.nspname not in ('pg_catalog', 'information_schema', 'anabranch')
            and n.nspname not like 'pg\\_%'
        order by c.oid";
    let found = match selection {
        TableSelection::All => work.query(ALL, &[]).await,
        TableSelection::Named(names) => work.query(NAMED, &[names]).await,
    };
    let (mut oids, mut problems) = (Vec::new(), Vec::new());
    for row in found.map_err(|error| store_error(&error))? {
        match field::<Option<u32>>(&row, "oid")? {
            Some(oid) => oids.push(oid),
            None => problems.push(format!(
                "there is no table {}",
                field::<&str>(&row, "asked")?
            )),
        }
    }
    let mut targets = Vec::new();
    for oid in oids {
        let (target, problem) = inspect(work, oid).await?;
        problems.extend(problem);
        targets.push(target);
    }
    if problems.is_empty() {
        return Ok(targets);
    }
    Err(StoreError::Misconfigured(format!(
        "nothing was installed: {}",
        problems.join("; ")
    )))
}

/// A table, and why it cannot be replicated, if it cannot.
async fn inspect(work: &Transaction<'_>, oid: u32) -> Result<(Target, Option<String>), StoreError> {
    const SQL: &str = "
        select c.oid::regclass::text as name, c.relkind::text as kind, c.relispartition as part,
               c.relpersistence <> 'p' as unlogged,
               exists (select from pg_inherits where inhparent = c.oid) as has_children,
               c.relreplident = 'n' as anonymous,
               exists (select from pg_index where indrelid = c.oid and indisprimary) as has_key,
               exists (
                   select from pg_index
                   where indrelid = c.oid and indisprimary and not indimmediate
               ) as deferred_key,
               exists (
                   select from pg_index x join pg_attribute a
                       on a.attrelid = x.indrelid and a.attnum = any (x.indkey)
                   where x.indrelid = c.oid and x.indisprimary and a.attgenerated <> ''
               ) as generated_key
        from pg_class c where c.oid = $1";
    let row = work
        .query_one(SQL, &[&oid])
        .await
        .map_err(|error| store_error(&error))?;
    let name: String = field(&row, "name")?;
    let kind: &str = field(&row, "kind")?;
    let inherits = kind == "p" || field(&row, "part")? || field(&row, "has_children")?;
    let checks = [
        (
            inherits,
            "is partitioned or inherited from, which is not supported yet",
        ),
        (kind != "r" && kind != "p", "is not a table"),
        (
            field(&row, "unlogged")?,
            "is unlogged or temporary, so the log does not tell of it",
        ),
        (
            !field::<bool>(&row, "has_key")?,
            "has no primary key; add one, or leave the table out",
        ),
        (
            field(&row, "deferred_key")?,
            "has a deferrable primary key, which identifies no rows in the log; make it NOT \
             DEFERRABLE",
        ),
        (
            field(&row, "anonymous")?,
            "has REPLICA IDENTITY NOTHING; run ALTER TABLE ... REPLICA IDENTITY DEFAULT",
        ),
        (
            field(&row, "generated_key")?,
            "has a generated column in its primary key, which is not supported",
        ),
    ];
    let problem = checks.iter().find(|(found, _)| *found);
    let problem = problem.map(|(_, what)| format!("{name} {what}"));
    Ok((Target { oid, name }, problem))
}

async fn apply(work: &Transaction<'_>, tables: &[Target]) -> Result<(), Error> {
    // Triggers need locks that running statements hold: better to fail than to block everybody
    // behind the waiting lock.
    work.batch_execute(
        "set local lock_timeout = '5s'; set local client_min_messages = warning;
         select pg_advisory_xact_lock(hashtext('anabranch.install'))",
    )
    .await?;
    work.batch_execute(SCHEMA).await?;
    work.batch_execute(
        "delete from anabranch.tables where relid not in (select oid from pg_class)",
    )
    .await?;
    // The functions of tables that are not named now may be an earlier version's.
    work.batch_execute(
        "select anabranch.prepare_trigger(t.relid, t.table_id) from anabranch.tables t
         join pg_index x on x.indrelid = t.relid and x.indisprimary",
    )
    .await?;
    for table in tables {
        work.execute("select anabranch.attach($1::oid::regclass)", &[&table.oid])
            .await?;
    }
    publish(work).await
}

/// Sees to it that the publication has every table. It must be there before the slot is made.
async fn publish(work: &Transaction<'_>) -> Result<(), Error> {
    const MISSING: &str = "
        select relid::regclass::text as name from (
            select relid from anabranch.tables
            union all select 'anabranch.clocks'::regclass::oid
            union all select 'anabranch.marks'::regclass::oid
        ) wanted
        where relid not in (
            select prrelid from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
            where p.pubname = $1
        )";
    let exists = "select from pg_publication where pubname = $1";
    if work.query_opt(exists, &[&PUBLICATION]).await?.is_none() {
        work.batch_execute(&format!("create publication {}", quote(PUBLICATION)))
            .await?;
    }
    let missing = work.query(MISSING, &[&PUBLICATION]).await?;
    let names: Vec<String> = missing
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    if names.is_empty() {
        return Ok(());
    }
    let add = format!(
        "alter publication {} add table {}",
        quote(PUBLICATION),
        names.join(", ")
    );
    work.batch_execute(&add).await
}

fn uninstall_sql() -> String {
    // The triggers go with the functions that they call.
    format!(
        "set local client_min_messages = warning;
         drop publication if exists {};
         drop schema if exists anabranch cascade;",
        quote(PUBLICATION)
    )
}

pub(crate) fn installation_error(error: &Error) -> StoreError {
    let text = describe(error);
    match error.code().map(|code| code.code()) {
        Some("42501") => StoreError::Misconfigured(format!(
            "the role lacks a right: {text}; installing needs CREATE on the database and the \
             ownership of the tables"
        )),
        Some("55P03") => StoreError::Unavailable(format!(
            "a table is locked by a long transaction: {text}; try again when it is over"
        )),
        _ => store_error(error),
    }
}
