//! What the hub lets in: tokens, stamps, shapes. Each check is a function of what came and of what
//! the service is set up for.

use anabranch_crdt::{ColumnState, Existence, Life, Stamp};
use anabranch_protocol::{LocalTransaction, RefusalCode, ShapeRequest, session::Refusal};
use anabranch_shape::{Shape, schema::Schema};

use super::HubConfig;

/// Whether a hello carries the token that the service asks for.
pub(super) fn check_token(config: &HubConfig, token: &str) -> Result<(), Refusal> {
    match &config.token {
        Some(expected) if !equal_in_constant_time(expected.as_bytes(), token.as_bytes()) => {
            let message = "the token is not the one this service asks for; check `token`";
            Err(Refusal::new(RefusalCode::Unauthenticated, message))
        }
        _ => Ok(()),
    }
}

/// Whether a pushed transaction is stamped as the rules say: not after `latest_ms`, and with one
/// stamp of its own.
pub(super) fn check_stamps(transaction: &LocalTransaction, latest_ms: u64) -> Result<(), Refusal> {
    let at_ms = transaction.stamp.hlc.millis().0;
    let seq = transaction.seq.0;
    if at_ms > latest_ms {
        let message = format!(
            "transaction {seq} is stamped {} ms beyond what this service admits; the replica's \
             clock is ahead",
            at_ms - latest_ms
        );
        return Err(Refusal::new(RefusalCode::ClockAhead, message));
    }
    if !stamps_are_its_own(transaction) {
        let message = format!("transaction {seq} carries stamps not its own");
        return Err(Refusal::new(RefusalCode::Protocol, message));
    }
    Ok(())
}

/// The shape that a replica asks for.
pub(super) fn define(
    config: &HubConfig,
    schema: &Schema,
    request: &ShapeRequest,
) -> Result<Shape, Refusal> {
    let invalid = |message: String| Refusal::new(RefusalCode::InvalidShape, message);
    let (table, filter, columns, parameters) = match request {
        ShapeRequest::Named { name, parameters } => {
            let shape = config.shapes.get(name).ok_or_else(|| {
                let known: Vec<&str> = config.shapes.keys().map(String::as_str).collect();
                let known = known.join(", ");
                invalid(format!("no shape is called `{name}`; there are: {known}"))
            })?;
            (&shape.table, &shape.filter, &shape.columns, parameters)
        }
        ShapeRequest::Spelled { .. } if !config.allow_spelled_shapes => {
            let message = "this service serves only the shapes it has names for";
            return Err(invalid(message.to_owned()));
        }
        ShapeRequest::Spelled {
            table,
            filter,
            columns,
            parameters,
        } => (table, filter, columns, parameters),
    };
    Shape::define(schema, table, filter.as_deref(), columns, parameters)
        .map_err(|error| invalid(error.to_string()))
}

/// Whether every register a transaction writes, everything it adds to counters, and every row and
/// element it adds carries its own stamp, as is true of local writes. Removals carry the stamps they
/// have observed. Totals of counters are the store's to tell.
fn stamps_are_its_own(transaction: &LocalTransaction) -> bool {
    let own = transaction.stamp;
    transaction.deltas.iter().all(|delta| {
        let mut cells = delta.state.cells();
        let mut columns = delta.state.clock().columns().iter();
        cells.all(|(_, stamp, _)| stamp == own)
            && exists_by(delta.state.existence(), own)
            && columns.all(|(_, state)| match state {
                ColumnState::Counter(counter) => {
                    let mut open = counter.increments().iter();
                    counter.totals().is_empty() && open.all(|open| open.stamp == own)
                }
                ColumnState::Set(set) => {
                    let mut elements = set.elements().iter();
                    elements.all(|element| exists_by(&element.existence, own))
                }
            })
    })
}

fn exists_by(existence: &Existence, own: Stamp) -> bool {
    existence.entries().iter().all(|entry| match entry.life {
        Life::Live => entry.stamp == own,
        Life::Removed => entry.stamp.hlc <= own.hlc,
    })
}

/// Compares secrets without telling by the time taken where they differ.
fn equal_in_constant_time(left: &[u8], right: &[u8]) -> bool {
    let difference = left.iter().zip(right).fold(0, |all, (a, b)| all | (a ^ b));
    left.len() == right.len() && difference == 0
}
