//! Frames as bytes, and the same bytes for what a replica keeps: transactions, rows, schemas.
//!
//! This module is the only one that knows bincode, which is no longer maintained: it is pinned, every
//! decode has a limit, must consume all its input, and meets neither recursive nor zero-sized
//! types; golden vectors hold the layout still, so that a codec of our own can take its place. The
//! layout is written down in `docs/protocol.md`.

mod columns;
mod fragment;
mod frame;
mod rows;
mod schema;

use bincode::{Decode, Encode, config};
use thiserror::Error;

pub use fragment::{Assembler, fragments};
pub use frame::{
    decode_client_frame, decode_server_frame, encode_client_frame, encode_server_frame,
};

use crate::{
    LocalTransaction, ShapeRequest,
    limits::{DECODED_BYTES_MAX, FRAME_BYTES_MAX},
};
use anabranch_crdt::Delta;
use anabranch_shape::schema::Schema;

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The bytes do not have the layout.
    #[error("the bytes are not a valid {what}: {detail}")]
    Malformed {
        /// What was expected.
        what: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// There are bytes after the end.
    #[error("{count} bytes follow the end of the {what}")]
    TrailingBytes {
        /// What was expected.
        what: &'static str,
        /// How many follow.
        count: usize,
    },
    /// A fragment with an unknown first byte.
    #[error("the fragment has form {0}, which this version does not know; upgrade Anabranch")]
    UnknownForm(u8),
    /// More bytes than the limit.
    #[error("the frame is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
}

/// A transaction as bytes: as it is pushed, kept in the outbox, and hashed.
pub fn encode_transaction(transaction: &LocalTransaction) -> Result<Vec<u8>, CodecError> {
    to_bytes("transaction", &rows::WireTransaction::from(transaction))
}

/// Reads [`encode_transaction`]'s bytes back.
pub fn decode_transaction(bytes: &[u8]) -> Result<LocalTransaction, CodecError> {
    from_bytes::<rows::WireTransaction<'_>>("transaction", bytes)?.try_into()
}

/// The hash that tells a resent transaction from another one under the same number.
pub fn hash_transaction(transaction: &LocalTransaction) -> Result<[u8; 32], CodecError> {
    Ok(*blake3::hash(&encode_transaction(transaction)?).as_bytes())
}

/// Row states as bytes.
pub fn encode_deltas(deltas: &[Delta]) -> Result<Vec<u8>, CodecError> {
    to_bytes("row states", &rows::WireDeltas::new(deltas))
}

/// Reads [`encode_deltas`]'s bytes back.
pub fn decode_deltas(bytes: &[u8]) -> Result<Vec<Delta>, CodecError> {
    from_bytes::<rows::WireDeltas<'_>>("row states", bytes)?.try_into()
}

/// A schema as bytes.
pub fn encode_schema(schema: &Schema) -> Result<Vec<u8>, CodecError> {
    to_bytes("schema", &schema::WireSchema::from(schema))
}

/// Reads [`encode_schema`]'s bytes back.
pub fn decode_schema(bytes: &[u8]) -> Result<Schema, CodecError> {
    from_bytes::<schema::WireSchema>("schema", bytes)?.try_into()
}

/// A shape request as bytes.
pub fn encode_shape_request(request: &ShapeRequest) -> Result<Vec<u8>, CodecError> {
    to_bytes("shape request", &frame::WireShape::from(request))
}

/// Reads [`encode_shape_request`]'s bytes back.
pub fn decode_shape_request(bytes: &[u8]) -> Result<ShapeRequest, CodecError> {
    from_bytes::<frame::WireShape<'_>>("shape request", bytes)?.try_into()
}

fn to_bytes(what: &'static str, value: &impl Encode) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::encode_to_vec(value, config::standard())
        .map_err(|error| malformed(what, &error))?;
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(CodecError::TooLarge {
            limit_bytes: FRAME_BYTES_MAX,
        });
    }
    Ok(bytes)
}

fn from_bytes<T: Decode<()>>(what: &'static str, bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(CodecError::TooLarge {
            limit_bytes: FRAME_BYTES_MAX,
        });
    }
    let limited = config::standard().with_limit::<DECODED_BYTES_MAX>();
    let (value, used) =
        bincode::decode_from_slice(bytes, limited).map_err(|error| malformed(what, &error))?;
    match bytes.len().saturating_sub(used) {
        0 => Ok(value),
        count => Err(CodecError::TrailingBytes { what, count }),
    }
}

fn malformed(what: &'static str, detail: &dyn std::fmt::Display) -> CodecError {
    CodecError::Malformed {
        what,
        detail: detail.to_string(),
    }
}
