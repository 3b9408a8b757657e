//! The replication slot: made when it is not there, made anew when Postgres has given it up.

use std::time::Duration;

use anabranch_store::StoreError;
use tokio_postgres::Error;

use crate::{catalog::field, config::PUBLICATION, errors::store_error, limits, pool::Lease};

/// Sees to it that there is a slot that can be read from.
pub(crate) async fn ensure(lease: &mut Lease, slot: &str) -> Result<(), StoreError> {
    check_server(lease).await?;
    const SQL: &str = "
        select coalesce(plugin::text, '') as plugin, coalesce(database::text, '') as database,
               coalesce(wal_status, '') = 'lost' as lost, current_database()::text as here
        from pg_replication_slots where slot_name = $1";
    let rows = lease
        .query(SQL, &[&slot])
        .await
        .map_err(|error| store_error(&error))?;
    let Some(row) = rows.first() else {
        return create(lease, slot).await;
    };
    let (plugin, database): (&str, &str) = (field(row, "plugin")?, field(row, "database")?);
    if plugin != "pgoutput" || database != field::<&str>(row, "here")? {
        return Err(StoreError::Misconfigured(format!(
            "the replication slot {slot:?} belongs to database {database:?} and plugin \
             {plugin:?}; give this service a slot name of its own"
        )));
    }
    if field(row, "lost")? {
        tracing::warn!(
            slot,
            "Postgres has discarded log that was not read; starting anew"
        );
        let dropped = lease
            .query("select pg_drop_replication_slot($1)", &[&slot])
            .await;
        dropped.map_err(|error| store_error(&error))?;
        return create(lease, slot).await;
    }
    Ok(())
}

/// How often to report: Postgres gives up on a client that is silent for its timeout.
pub(crate) async fn feedback_period(lease: &mut Lease) -> Result<Duration, StoreError> {
    const SQL: &str =
        "select setting::bigint as ms from pg_settings where name = 'wal_sender_timeout'";
    let rows = lease
        .query(SQL, &[])
        .await
        .map_err(|error| store_error(&error))?;
    let ms: i64 = rows.first().map_or(Ok(0), |row| field(row, "ms"))?;
    let third = Duration::from_millis(ms.unsigned_abs() / 3);
    let period = if third.is_zero() {
        limits::FEEDBACK_PERIOD_MAX
    } else {
        third
    };
    Ok(period.min(limits::FEEDBACK_PERIOD_MAX))
}

/// Checks what would otherwise fail with a worse message, or only later.
async fn check_server(lease: &mut Lease) -> Result<(), StoreError> {
    const SQL: &str = "
        select current_setting('wal_level') as wal_level,
               exists (select from pg_publication where pubname = $1) as published";
    let rows = lease
        .query(SQL, &[&PUBLICATION])
        .await
        .map_err(|error| store_error(&error))?;
    let Some(row) = rows.first() else {
        return Ok(());
    };
    check_wal_level(field(row, "wal_level")?)?;
    if field::<bool>(row, "published")? {
        return Ok(());
    }
    Err(StoreError::Misconfigured(format!(
        "the publication {PUBLICATION:?} is not there; run the installation again"
    )))
}

/// Whether the log tells enough.
pub(crate) fn check_wal_level(wal_level: &str) -> Result<(), StoreError> {
    if wal_level == "logical" {
        return Ok(());
    }
    Err(StoreError::Misconfigured(format!(
        "wal_level is {wal_level:?} and must be \"logical\": run ALTER SYSTEM SET wal_level = \
         logical and restart Postgres (managed services have a parameter for it, such as \
         rds.logical_replication)"
    )))
}

/// A slot begins where every transaction that was running is over, so it may have to wait.
async fn create(lease: &mut Lease, slot: &str) -> Result<(), StoreError> {
    let timeout = format!(
        "set local statement_timeout = {}",
        limits::SLOT_CREATION_MAX.as_millis()
    );
    let mut work = lease.begin(&timeout).await?;
    let sql = "select pg_create_logical_replication_slot($1, 'pgoutput')";
    let created = work.query(sql, &[&slot]).await;
    created.map_err(|error| creation_error(&error, slot))?;
    work.commit().await.map_err(|error| store_error(&error))
}

fn creation_error(error: &Error, slot: &str) -> StoreError {
    match error.code().map(|code| code.code()) {
        Some("57014") => StoreError::Unavailable(format!(
            "the replication slot {slot:?} waits for a transaction that has been running for more \
             than {} s; find it in pg_stat_activity (oldest xact_start) and end it",
            limits::SLOT_CREATION_MAX.as_secs()
        )),
        Some("53400") => StoreError::Misconfigured(
            "all replication slots are in use; raise max_replication_slots or drop one".to_owned(),
        ),
        Some("42501") => StoreError::Misconfigured(
            "the role may not make a replication slot; run ALTER ROLE ... REPLICATION".to_owned(),
        ),
        _ => store_error(error),
    }
}
