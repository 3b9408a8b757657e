//! Frames on the wire: the twins of [`ClientFrame`] and [`ServerFrame`], field by field.

use anabranch_crdt::{Hlc, Millis, ReplicaId, TableId, Value};
use bincode::{Decode, Encode};

use super::{
    CodecError, from_bytes, malformed,
    rows::{
        StampReader, StampWriter, WireDeltas, WireStamp, WireState, WireTransaction, WireValue,
        read_key, wire_key,
    },
    schema::WireSchema,
    to_bytes,
};
use crate::{
    Change, ClientFrame, Cursor, Epoch, Position, RefusalCode, RejectCode, Seq, ServerFrame,
    ShapeRequest, Subscription, SubscriptionId, SubscriptionSet,
};

/// A frame of the replica as bytes.
pub fn encode_client_frame(frame: &ClientFrame) -> Result<Vec<u8>, CodecError> {
    to_bytes("client frame", &WireClientFrame::from(frame))
}

/// Reads [`encode_client_frame`]'s bytes back.
pub fn decode_client_frame(bytes: &[u8]) -> Result<ClientFrame, CodecError> {
    from_bytes::<WireClientFrame<'_>>("client frame", bytes)?.try_into()
}

/// A frame of the service as bytes.
pub fn encode_server_frame(frame: &ServerFrame) -> Result<Vec<u8>, CodecError> {
    to_bytes("server frame", &WireServerFrame::from(frame))
}

/// Reads [`encode_server_frame`]'s bytes back.
pub fn decode_server_frame(bytes: &[u8]) -> Result<ServerFrame, CodecError> {
    from_bytes::<WireServerFrame<'_>>("server frame", bytes)?.try_into()
}

#[derive(Encode, Decode)]
enum WireClientFrame<'a> {
    Hello {
        versions: (u16, u16),
        replica: [u8; 16],
        token: String,
        schema_version: u64,
        first_pending: u64,
        credit_frames: u32,
    },
    Subscribe(Vec<WireSubscription<'a>>),
    Unsubscribe(u8),
    Push(Vec<WireTransaction<'a>>),
    Credit(u32),
}

#[derive(Encode, Decode)]
struct WireSubscription<'a> {
    id: u8,
    shape: WireShape<'a>,
    cursor: Option<WireCursor>,
}

#[derive(Encode, Decode)]
pub(super) enum WireShape<'a> {
    Named {
        name: String,
        parameters: Vec<(String, WireValue<'a>)>,
    },
    Spelled {
        table: String,
        filter: Option<String>,
        columns: Vec<String>,
        parameters: Vec<(String, WireValue<'a>)>,
    },
}

#[derive(Encode, Decode)]
struct WireCursor {
    epoch: u64,
    position: u64,
}

#[derive(Encode, Decode)]
struct WireChange<'a> {
    table: u32,
    key: Vec<WireValue<'a>>,
    shapes: u64,
    state: WireState<'a>,
}

#[derive(Encode, Decode)]
enum WireServerFrame<'a> {
    Welcome {
        version: u16,
        server_time_ms: u64,
        drift_max_ms: u64,
        merged_through: u64,
        horizon: i64,
        credit_transactions: u32,
        schema: Option<WireSchema>,
    },
    Schema(WireSchema),
    Snapshot {
        id: u8,
        rows_estimate: u64,
        rows: WireDeltas<'a>,
    },
    SnapshotEnd {
        id: u8,
        cursor: WireCursor,
    },
    SnapshotReset(u8),
    Transaction {
        cursor: WireCursor,
        live: u64,
        accepted: Vec<u64>,
        stamps: Vec<WireStamp>,
        changes: Vec<WireChange<'a>>,
        more: bool,
    },
    Accepted(u64),
    Rejected {
        seq: u64,
        code: u8,
        reason: String,
        rows: WireDeltas<'a>,
    },
    SubscriptionRefused {
        id: u8,
        code: u8,
        message: String,
    },
    Credit(u32),
    Refused {
        code: u8,
        message: String,
    },
    Unsubscribed(u8),
}

/// The numbers of the codes on the wire are their places here; new ones go to the end.
const REJECT_CODES: [RejectCode; 8] = [
    RejectCode::Constraint,
    RejectCode::InvalidValue,
    RejectCode::Forbidden,
    RejectCode::Stale,
    RejectCode::UnknownSchema,
    RejectCode::TooLarge,
    RejectCode::Equivocation,
    RejectCode::Store,
];

/// As [`REJECT_CODES`], for refusals.
const REFUSAL_CODES: [RefusalCode; 8] = [
    RefusalCode::Version,
    RefusalCode::Unauthenticated,
    RefusalCode::Protocol,
    RefusalCode::InvalidShape,
    RefusalCode::TooMuch,
    RefusalCode::Unavailable,
    RefusalCode::Quarantined,
    RefusalCode::ClockAhead,
];

impl RejectCode {
    /// The code's number, on the wire and in stores.
    pub fn number(self) -> u8 {
        let place = REJECT_CODES.iter().position(|code| *code == self);
        place
            .and_then(|place| u8::try_from(place).ok())
            .unwrap_or(u8::MAX)
    }

    /// The code with that number; one that a newer service made up reads as [`Self::Store`].
    pub fn from_number(number: u8) -> Self {
        REJECT_CODES
            .get(usize::from(number))
            .copied()
            .unwrap_or(Self::Store)
    }
}

impl RefusalCode {
    fn number(self) -> u8 {
        let place = REFUSAL_CODES.iter().position(|code| *code == self);
        place
            .and_then(|place| u8::try_from(place).ok())
            .unwrap_or(u8::MAX)
    }

    fn from_number(number: u8) -> Self {
        REFUSAL_CODES
            .get(usize::from(number))
            .copied()
            .unwrap_or(Self::Protocol)
    }
}

impl<'a> From<&'a ClientFrame> for WireClientFrame<'a> {
    fn from(frame: &'a ClientFrame) -> Self {
        match frame {
            ClientFrame::Hello {
                versions,
                replica,
                token,
                schema_version,
                first_pending,
                credit_frames,
            } => Self::Hello {
                versions: *versions,
                replica: replica.0,
                token: token.clone(),
                schema_version: *schema_version,
                first_pending: first_pending.0,
                credit_frames: *credit_frames,
            },
            ClientFrame::Subscribe(subscriptions) => {
                Self::Subscribe(subscriptions.iter().map(WireSubscription::from).collect())
            }
            ClientFrame::Unsubscribe(id) => Self::Unsubscribe(id.number()),
            ClientFrame::Push(transactions) => {
                Self::Push(transactions.iter().map(WireTransaction::from).collect())
            }
            ClientFrame::Credit(frames) => Self::Credit(*frames),
        }
    }
}

impl TryFrom<WireClientFrame<'_>> for ClientFrame {
    type Error = CodecError;

    fn try_from(wire: WireClientFrame<'_>) -> Result<Self, CodecError> {
        Ok(match wire {
            WireClientFrame::Hello {
                versions,
                replica,
                token,
                schema_version,
                first_pending,
                credit_frames,
            } => Self::Hello {
                versions,
                replica: ReplicaId(replica),
                token,
                schema_version,
                first_pending: Seq(first_pending),
                credit_frames,
            },
            WireClientFrame::Subscribe(subscriptions) => {
                let read = subscriptions.into_iter().map(Subscription::try_from);
                Self::Subscribe(read.collect::<Result<_, _>>()?)
            }
            WireClientFrame::Unsubscribe(id) => Self::Unsubscribe(read_id(id)?),
            WireClientFrame::Push(transactions) => {
                let read = transactions.into_iter().map(TryInto::try_into);
                Self::Push(read.collect::<Result<_, _>>()?)
            }
            WireClientFrame::Credit(frames) => Self::Credit(frames),
        })
    }
}

impl<'a> From<&'a Subscription> for WireSubscription<'a> {
    fn from(subscription: &'a Subscription) -> Self {
        Self {
            id: subscription.id.number(),
            shape: (&subscription.shape).into(),
            cursor: subscription.cursor.map(WireCursor::from),
        }
    }
}

impl TryFrom<WireSubscription<'_>> for Subscription {
    type Error = CodecError;

    fn try_from(wire: WireSubscription<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            id: read_id(wire.id)?,
            shape: wire.shape.try_into()?,
            cursor: wire.cursor.map(Cursor::from),
        })
    }
}

impl<'a> From<&'a ShapeRequest> for WireShape<'a> {
    fn from(shape: &'a ShapeRequest) -> Self {
        match shape {
            ShapeRequest::Named { name, parameters } => Self::Named {
                name: name.clone(),
                parameters: wire_parameters(parameters),
            },
            ShapeRequest::Spelled {
                table,
                filter,
                columns,
                parameters,
            } => Self::Spelled {
                table: table.clone(),
                filter: filter.clone(),
                columns: columns.clone(),
                parameters: wire_parameters(parameters),
            },
        }
    }
}

impl TryFrom<WireShape<'_>> for ShapeRequest {
    type Error = CodecError;

    fn try_from(wire: WireShape<'_>) -> Result<Self, CodecError> {
        Ok(match wire {
            WireShape::Named { name, parameters } => Self::Named {
                name,
                parameters: read_parameters(parameters)?,
            },
            WireShape::Spelled {
                table,
                filter,
                columns,
                parameters,
            } => Self::Spelled {
                table,
                filter,
                columns,
                parameters: read_parameters(parameters)?,
            },
        })
    }
}

fn wire_parameters(parameters: &[(String, Value)]) -> Vec<(String, WireValue<'_>)> {
    parameters
        .iter()
        .map(|(name, value)| (name.clone(), value.into()))
        .collect()
}

fn read_parameters(wire: Vec<(String, WireValue<'_>)>) -> Result<Vec<(String, Value)>, CodecError> {
    wire.into_iter()
        .map(|(name, value)| Ok((name, value.try_into()?)))
        .collect()
}

fn read_id(number: u8) -> Result<SubscriptionId, CodecError> {
    SubscriptionId::new(number)
        .ok_or_else(|| malformed("subscription", &format!("its number {number} is too large")))
}

impl From<Cursor> for WireCursor {
    fn from(cursor: Cursor) -> Self {
        Self {
            epoch: cursor.epoch.0,
            position: cursor.position.0,
        }
    }
}

impl From<WireCursor> for Cursor {
    fn from(wire: WireCursor) -> Self {
        Self {
            epoch: Epoch(wire.epoch),
            position: Position(wire.position),
        }
    }
}

fn wire_transaction<'a>(
    cursor: Cursor,
    live: SubscriptionSet,
    accepted: &[Seq],
    changes: &'a [Change],
    more: bool,
) -> WireServerFrame<'a> {
    let mut stamps = StampWriter::default();
    let changes = changes.iter().map(|change| WireChange {
        table: change.table.0,
        key: wire_key(&change.key),
        shapes: change.shapes.0,
        state: stamps.state(&change.state),
    });
    let changes = changes.collect();
    WireServerFrame::Transaction {
        cursor: cursor.into(),
        live: live.0,
        accepted: accepted.iter().map(|seq| seq.0).collect(),
        stamps: stamps.finish(),
        changes,
        more,
    }
}

fn read_transaction(
    cursor: WireCursor,
    live: u64,
    accepted: Vec<u64>,
    stamps: Vec<WireStamp>,
    changes: Vec<WireChange<'_>>,
    more: bool,
) -> Result<ServerFrame, CodecError> {
    let stamps = StampReader::new(stamps)?;
    let read = |change: WireChange<'_>| {
        Ok(Change {
            table: TableId(change.table),
            key: read_key(change.key)?,
            shapes: SubscriptionSet(change.shapes),
            state: stamps.state(change.state)?,
        })
    };
    Ok(ServerFrame::Transaction {
        cursor: cursor.into(),
        live: SubscriptionSet(live),
        accepted: accepted.into_iter().map(Seq).collect(),
        changes: changes.into_iter().map(read).collect::<Result<_, _>>()?,
        more,
    })
}

impl<'a> From<&'a ServerFrame> for WireServerFrame<'a> {
    fn from(frame: &'a ServerFrame) -> Self {
        match frame {
            ServerFrame::Welcome {
                version,
                server_time,
                drift_max_ms,
                merged_through,
                horizon,
                credit_transactions,
                schema,
            } => Self::Welcome {
                version: *version,
                server_time_ms: server_time.0,
                drift_max_ms: *drift_max_ms,
                merged_through: merged_through.0,
                horizon: horizon.to_i64(),
                credit_transactions: *credit_transactions,
                schema: schema.as_ref().map(WireSchema::from),
            },
            ServerFrame::Schema(schema) => Self::Schema(schema.into()),
            ServerFrame::Snapshot {
                id,
                rows,
                rows_estimate,
            } => Self::Snapshot {
                id: id.number(),
                rows_estimate: *rows_estimate,
                rows: WireDeltas::new(rows),
            },
            ServerFrame::SnapshotEnd { id, cursor } => Self::SnapshotEnd {
                id: id.number(),
                cursor: (*cursor).into(),
            },
            ServerFrame::SnapshotReset(id) => Self::SnapshotReset(id.number()),
            ServerFrame::Transaction {
                cursor,
                live,
                accepted,
                changes,
                more,
            } => wire_transaction(*cursor, *live, accepted, changes, *more),
            ServerFrame::Accepted(seq) => Self::Accepted(seq.0),
            ServerFrame::Rejected {
                seq,
                code,
                reason,
                rows,
            } => Self::Rejected {
                seq: seq.0,
                code: code.number(),
                reason: reason.clone(),
                rows: WireDeltas::new(rows),
            },
            ServerFrame::SubscriptionRefused { id, code, message } => Self::SubscriptionRefused {
                id: id.number(),
                code: code.number(),
                message: message.clone(),
            },
            ServerFrame::Credit(transactions) => Self::Credit(*transactions),
            ServerFrame::Unsubscribed(id) => Self::Unsubscribed(id.number()),
            ServerFrame::Refused { code, message } => Self::Refused {
                code: code.number(),
                message: message.clone(),
            },
        }
    }
}

impl TryFrom<WireServerFrame<'_>> for ServerFrame {
    type Error = CodecError;

    fn try_from(wire: WireServerFrame<'_>) -> Result<Self, CodecError> {
        Ok(match wire {
            WireServerFrame::Welcome {
                version,
                server_time_ms,
                drift_max_ms,
                merged_through,
                horizon,
                credit_transactions,
                schema,
            } => Self::Welcome {
                version,
                server_time: Millis(server_time_ms),
                drift_max_ms,
                merged_through: Seq(merged_through),
                horizon: Hlc::from_i64(horizon).map_err(|error| malformed("welcome", &error))?,
                credit_transactions,
                schema: schema.map(TryInto::try_into).transpose()?,
            },
            WireServerFrame::Schema(schema) => Self::Schema(schema.try_into()?),
            WireServerFrame::Snapshot {
                id,
                rows_estimate,
                rows,
            } => Self::Snapshot {
                id: read_id(id)?,
                rows_estimate,
                rows: rows.try_into()?,
            },
            WireServerFrame::SnapshotEnd { id, cursor } => Self::SnapshotEnd {
                id: read_id(id)?,
                cursor: cursor.into(),
            },
            WireServerFrame::SnapshotReset(id) => Self::SnapshotReset(read_id(id)?),
            WireServerFrame::Transaction {
                cursor,
                live,
                accepted,
                stamps,
                changes,
                more,
            } => read_transaction(cursor, live, accepted, stamps, changes, more)?,
            WireServerFrame::Accepted(seq) => Self::Accepted(Seq(seq)),
            WireServerFrame::Rejected {
                seq,
                code,
                reason,
                rows,
            } => Self::Rejected {
                seq: Seq(seq),
                code: RejectCode::from_number(code),
                reason,
                rows: rows.try_into()?,
            },
            WireServerFrame::SubscriptionRefused { id, code, message } => {
                let code = RefusalCode::from_number(code);
                Self::SubscriptionRefused {
                    id: read_id(id)?,
                    code,
                    message,
                }
            }
            WireServerFrame::Credit(transactions) => Self::Credit(transactions),
            WireServerFrame::Unsubscribed(id) => Self::Unsubscribed(read_id(id)?),
            WireServerFrame::Refused { code, message } => Self::Refused {
                code: RefusalCode::from_number(code),
                message,
            },
        })
    }
}
