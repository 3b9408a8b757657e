//! Frames cut into fragments of bounded size, compressed where that pays, and put together again.
//!
//! A fragment is a form byte, a byte of flags, and payload. The assembler holds at most its limit,
//! whatever the peer sends, and inflates no further than the compressed bytes can honestly mean.

use super::CodecError;
use crate::limits::{COMPRESS_BYTES_MIN, FRAGMENT_BYTES_MAX, FRAME_BYTES_MAX};

const FORM: u8 = 1;
const HEADER_BYTES: usize = 2;
const MORE_FOLLOW: u8 = 1;
const COMPRESSED: u8 = 2;
/// LZ4 never inflates a byte to more than this many; a larger claim is a bomb.
const INFLATION_MAX: usize = 255;

/// Cuts an encoded frame into fragments, each at most [`FRAGMENT_BYTES_MAX`] bytes.
///
/// ```
/// use anabranch_protocol::codec::{Assembler, fragments};
///
/// let frame = vec![7; 1_000_000];
/// let mut assembler = Assembler::new(2_000_000);
/// let mut whole = None;
/// for fragment in fragments(&frame) {
///     assert!(whole.is_none());
///     whole = assembler.push(&fragment)?;
/// }
/// assert_eq!(whole, Some(frame));
/// # Ok::<(), anabranch_protocol::codec::CodecError>(())
/// ```
pub fn fragments(frame: &[u8]) -> Vec<Vec<u8>> {
    let compressed = (frame.len() >= COMPRESS_BYTES_MIN)
        .then(|| lz4_flex::block::compress_prepend_size(frame))
        .filter(|compressed| compressed.len() < frame.len());
    let (flags, payload) = match &compressed {
        Some(compressed) => (COMPRESSED, compressed.as_slice()),
        None => (0, frame),
    };
    let mut pieces = payload.chunks(FRAGMENT_BYTES_MAX - HEADER_BYTES).peekable();
    let mut out = Vec::new();
    while let Some(piece) = pieces.next() {
        let more = if pieces.peek().is_some() {
            MORE_FOLLOW
        } else {
            0
        };
        let mut fragment = Vec::with_capacity(HEADER_BYTES + piece.len());
        fragment.extend_from_slice(&[FORM, flags | more]);
        fragment.extend_from_slice(piece);
        out.push(fragment);
    }
    out
}

/// Puts fragments together.
#[derive(Debug)]
pub struct Assembler {
    limit_bytes: usize,
    gathered: Vec<u8>,
    flags: Option<u8>,
}

impl Assembler {
    /// An assembler of frames of at most `limit_bytes`.
    pub const fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            gathered: Vec::new(),
            flags: None,
        }
    }

    /// Changes the limit, as after a peer has been welcomed.
    pub const fn set_limit(&mut self, limit_bytes: usize) {
        self.limit_bytes = limit_bytes;
    }

    /// Takes a fragment; returns the frame if it was the last one. After an error the connection is
    /// beyond repair.
    pub fn push(&mut self, fragment: &[u8]) -> Result<Option<Vec<u8>>, CodecError> {
        let too_large = CodecError::TooLarge {
            limit_bytes: self.limit_bytes,
        };
        if fragment.len() > FRAGMENT_BYTES_MAX {
            return Err(CodecError::TooLarge {
                limit_bytes: FRAGMENT_BYTES_MAX,
            });
        }
        let Some(([form, flags], payload)) = fragment.split_first_chunk() else {
            return Err(super::malformed(
                "fragment",
                &"it is shorter than its header",
            ));
        };
        if *form != FORM {
            return Err(CodecError::UnknownForm(*form));
        }
        let kept = *self.flags.get_or_insert(flags & !MORE_FOLLOW);
        if flags & !(MORE_FOLLOW | COMPRESSED) != 0 || flags & !MORE_FOLLOW != kept {
            return Err(super::malformed("fragment", &"its flags make no sense"));
        }
        if self.gathered.len().saturating_add(payload.len()) > self.limit_bytes {
            return Err(too_large);
        }
        self.gathered.extend_from_slice(payload);
        if flags & MORE_FOLLOW != 0 {
            return Ok(None);
        }
        self.flags = None;
        let whole = std::mem::take(&mut self.gathered);
        if kept & COMPRESSED == 0 {
            Ok(Some(whole))
        } else {
            self.inflate(&whole).map(Some)
        }
    }

    fn inflate(&self, compressed: &[u8]) -> Result<Vec<u8>, CodecError> {
        let bad = |detail: &dyn std::fmt::Display| super::malformed("compressed frame", detail);
        let (claim, block) = compressed
            .split_first_chunk()
            .ok_or_else(|| bad(&"it is too short"))?;
        let claim = usize::try_from(u32::from_le_bytes(*claim)).unwrap_or(usize::MAX);
        if claim > self.limit_bytes.min(FRAME_BYTES_MAX) {
            return Err(CodecError::TooLarge {
                limit_bytes: self.limit_bytes,
            });
        }
        if claim
            > block
                .len()
                .saturating_mul(INFLATION_MAX)
                .saturating_add(INFLATION_MAX)
        {
            return Err(bad(&"it claims to inflate further than it can"));
        }
        let inflated = lz4_flex::block::decompress(block, claim).map_err(|error| bad(&error))?;
        if inflated.len() == claim {
            Ok(inflated)
        } else {
            Err(bad(&"its length is not as claimed"))
        }
    }
}
