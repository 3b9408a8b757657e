//! Snapshots: the rows of a shape as of one moment, in chunks, with what that moment had seen.

use std::{fmt::Write as _, pin::pin, sync::Arc};

use anabranch_crdt::{ColumnId, Delta};
use anabranch_protocol::Position;
use anabranch_shape::Dialect;
use anabranch_store::{Snapshot, SnapshotQuery, StoreError, Visibility};
use futures_util::TryStreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_postgres::{Row, types::ToSql};

use crate::{
    catalog::{Catalog, PgTable, field, table_number},
    clocks,
    errors::Failure,
    keys, limits,
    pool::{Lease, Work},
    rows, values,
};

/// One moment for every statement, and times to the settings of every session.
const SETTINGS: &str = "set transaction isolation level repeatable read read only";

/// What is known of a snapshot before its first row.
struct Opening {
    visibility: Visibility,
    rows_estimate: u64,
}

type Chunks = mpsc::Sender<Result<Vec<Delta>, StoreError>>;

/// Starts to read `query`. The permit bounds how many snapshots are read at one time.
pub(crate) async fn read(
    lease: Lease,
    permit: OwnedSemaphorePermit,
    catalog: Arc<Catalog>,
    query: SnapshotQuery,
) -> Result<Snapshot, StoreError> {
    let (opened, opening) = oneshot::channel();
    let (chunks, receiver) = mpsc::channel(limits::CHUNKS_AHEAD);
    tokio::spawn(async move {
        let _permit = permit;
        run(lease, &catalog, &query, opened, chunks).await;
    });
    let opening = opening.await.map_err(|_| {
        StoreError::Unavailable("the snapshot was given up before it began".to_owned())
    })??;
    let Opening {
        visibility,
        rows_estimate,
    } = opening;
    Ok(Snapshot {
        visibility,
        rows_estimate,
        chunks: receiver,
    })
}

/// Reads the snapshot from its opening to its last row.
async fn run(
    mut lease: Lease,
    catalog: &Catalog,
    query: &SnapshotQuery,
    opened: oneshot::Sender<Result<Opening, StoreError>>,
    chunks: Chunks,
) {
    let (mut work, table, statement, opening) = match begin(&mut lease, catalog, query).await {
        Ok(begun) => begun,
        Err(failure) => {
            let _ = opened.send(Err(failure.into_store_error()));
            return;
        }
    };
    // If nobody listens any more, nobody needs to know.
    let _ = opened.send(Ok(opening));
    let read = read_rows(&mut work, table, query, &statement, &chunks).await;
    drop(work);
    if let Err(failure) = read {
        let _ = chunks.send(Err(failure.into_store_error())).await;
    }
    if chunks.is_closed() {
        // The rest of the rows would still have to come before anybody else could use it.
        lease.discard();
    }
}

async fn begin<'l, 'c>(
    lease: &'l mut Lease,
    catalog: &'c Catalog,
    query: &SnapshotQuery,
) -> Result<(Work<'l>, &'c PgTable, Statement, Opening), Failure> {
    let table = catalog.tables.get(&query.table).ok_or_else(|| {
        StoreError::Unavailable(format!("table number {} is not replicated", query.table.0))
    })?;
    let statement = Statement::of(table, query)?;
    let mut work = lease.begin(SETTINGS).await?;
    let opening = open(&mut work, table, &statement).await?;
    Ok((work, table, statement, opening))
}

/// The rows of a shape in SQL.
struct Statement {
    /// The rows, as something to select from.
    source: String,
    /// The parameters of the shape's condition, from $2 on.
    parameters: Vec<Option<String>>,
}

impl Statement {
    fn of(table: &PgTable, query: &SnapshotQuery) -> Result<Self, StoreError> {
        let mut source = format!("select * from {}", table.name());
        let mut parameters = Vec::new();
        if let Some(filter) = &query.filter {
            let sql = filter
                .to_sql(&table.table, Dialect::Postgres, 2)
                .ok_or_else(|| {
                    let name = table.table.local_name();
                    StoreError::Unavailable(format!("table {name} has lost a column of the shape"))
                })?;
            let _ = write!(source, " where {}", sql.text);
            parameters = sql.parameters.iter().map(values::to_text).collect();
        }
        Ok(Self { source, parameters })
    }

    fn bound<'a>(&'a self, first: &'a (dyn ToSql + Sync)) -> Vec<&'a (dyn ToSql + Sync)> {
        let rest = self
            .parameters
            .iter()
            .map(|text| text as &(dyn ToSql + Sync));
        std::iter::once(first).chain(rest).collect()
    }
}

/// Takes the snapshot, and counts its rows unless there are many.
async fn open(
    work: &mut Work<'_>,
    table: &PgTable,
    statement: &Statement,
) -> Result<Opening, Failure> {
    let rows = work
        .query("select pg_current_snapshot()::text as snapshot", &[])
        .await?;
    let text: String = rows
        .first()
        .map_or(Ok(String::new()), |row| field(row, "snapshot"))?;
    // Read after the snapshot was taken, so that whatever it saw lies before.
    let sql = "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint as fence";
    let rows = work.query(sql, &[]).await?;
    let fence: i64 = rows.first().map_or(Ok(0), |row| field(row, "fence"))?;
    let visibility = parse_snapshot(&text, Position(fence.unsigned_abs()))
        .ok_or_else(|| StoreError::Damaged(format!("{text:?} is no snapshot")))?;
    Ok(Opening {
        visibility,
        rows_estimate: estimate(work, table, statement).await?,
    })
}

async fn estimate(
    work: &mut Work<'_>,
    table: &PgTable,
    statement: &Statement,
) -> Result<u64, Failure> {
    let sql = format!(
        "select count(*) as counted from (select from ({}) r limit $1) counted",
        statement.source
    );
    let limit = limits::COUNTED_ROWS_MAX.saturating_add(1);
    let rows = work.query(&sql, &statement.bound(&limit)).await?;
    let counted: i64 = rows.first().map_or(Ok(0), |row| field(row, "counted"))?;
    if counted <= limits::COUNTED_ROWS_MAX {
        return Ok(counted.unsigned_abs());
    }
    let sql = "select reltuples::bigint as rows from pg_class where oid = $1";
    let rows = work.query(sql, &[&table.oid]).await?;
    let known: i64 = rows.first().map_or(Ok(0), |row| field(row, "rows"))?;
    Ok(known.max(counted).unsigned_abs())
}

/// Reads the rows with their clocks, as they come.
async fn read_rows(
    work: &mut Work<'_>,
    table: &PgTable,
    query: &SnapshotQuery,
    statement: &Statement,
    chunks: &Chunks,
) -> Result<(), Failure> {
    let wanted = |id: ColumnId| query.columns.contains(&id);
    let registers: Vec<_> = table
        .table
        .registers()
        .filter(|column| wanted(column.id))
        .cloned()
        .collect();
    let parts: Vec<String> = table
        .table
        .key_columns()
        .map(|column| format!("concat(r.{})", crate::catalog::quote(&column.name)))
        .collect();
    let sql = format!(
        "select array[{parts}]::text[] as parts, {cells} as cells, {clock}
         from ({source}) r
         left join anabranch.clocks c on c.table_id = $1 and c.key = {key}",
        parts = parts.join(", "),
        cells = PgTable::cells("r", registers.iter()),
        clock = rows::CLOCK_COLUMNS,
        source = statement.source,
        key = table.key_text("r"),
    );
    let number = table_number(table.table.id)?;
    let stream = work.query_raw(&sql, &statement.bound(&number)).await?;
    let mut stream = pin!(stream);
    let (mut chunk, mut bytes) = (Vec::new(), 0_usize);
    while let Some(row) = stream.try_next().await? {
        let delta = read_delta(table, &registers, &row)?;
        let cells = delta.state.columns().count().saturating_mul(CELL_BYTES);
        bytes = bytes
            .saturating_add(delta.state.size_bytes())
            .saturating_add(cells);
        chunk.push(delta);
        if chunk.len() >= limits::CHUNK_ROWS_MAX || bytes >= limits::CHUNK_BYTES_MAX {
            bytes = 0;
            if chunks.send(Ok(std::mem::take(&mut chunk))).await.is_err() {
                return Ok(());
            }
        }
    }
    if !chunk.is_empty() {
        let _ = chunks.send(Ok(chunk)).await;
    }
    Ok(())
}

/// What a cell takes on the wire beside its value, about.
const CELL_BYTES: usize = 8;

fn read_delta(
    table: &PgTable,
    registers: &[anabranch_shape::schema::Column],
    row: &Row,
) -> Result<Delta, StoreError> {
    let parts: Vec<&str> = field(row, "parts")?;
    let cells: Vec<Option<&str>> = field(row, "cells")?;
    let typed = registers.iter().zip(cells);
    let values = typed.map(|(column, text)| (column.id, values::from_nullable(column.kind, text)));
    let values = values.collect();
    let clock = clocks::fold(rows::clock_row(row)?.as_ref(), true, &values, &table.table)?;
    let state = rows::state(&clock, &values, |_| true);
    let key = keys::typed(&table.table, parts.into_iter());
    Ok(Delta {
        table: table.table.id,
        key,
        state,
    })
}

/// `xmin:xmax:running,...`
fn parse_snapshot(text: &str, fence: Position) -> Option<Visibility> {
    let mut parts = text.split(':');
    let (xmin, xmax) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let running = parts.next()?.split(',').filter(|number| !number.is_empty());
    let running = running
        .map(|number| number.parse().ok())
        .collect::<Option<_>>()?;
    Some(Visibility {
        xmin,
        xmax,
        running,
        fence,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_read_with_and_without_running_transactions() {
        let fence = Position(9);
        let quiet = Visibility {
            xmin: 725,
            xmax: 725,
            running: vec![],
            fence,
        };
        assert_eq!(parse_snapshot("725:725:", fence), Some(quiet));
        let busy = Visibility {
            xmin: 5,
            xmax: 9,
            running: vec![5, 7],
            fence,
        };
        assert_eq!(parse_snapshot("5:9:5,7", fence), Some(busy));
        assert_eq!(parse_snapshot("5:9", fence), None);
    }
}
