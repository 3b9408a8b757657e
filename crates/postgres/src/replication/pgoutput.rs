//! The decoder of `pgoutput`, protocol version 1. Pure, and bounded by the bytes it is given.

use bytes::{Buf as _, Bytes};
use thiserror::Error;

/// A message of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// A transaction begins. Its number lacks the upper half.
    Begin {
        xid: u32,
    },
    /// It ends.
    Commit {
        end: u64,
    },
    /// What the columns of a table are from here on.
    Relation(Relation),
    Insert {
        relation: u32,
        new: Vec<Cell>,
    },
    /// `old` is there only if the key has changed, and then has nothing but the key.
    Update {
        relation: u32,
        old: Option<Vec<Cell>>,
        new: Vec<Cell>,
    },
    /// `old` has nothing but the key.
    Delete {
        relation: u32,
        old: Vec<Cell>,
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// Something of no concern here: a type, an origin, a message.
    Other,
}

/// A table as the log describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Relation {
    pub(crate) oid: u32,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) columns: Vec<RelationColumn>,
}

/// A column as the log describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelationColumn {
    pub(crate) name: String,
    pub(crate) type_oid: u32,
}

/// A value of a row in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Null,
    /// A large value that the update did not touch: the log does not have it.
    Unchanged,
    Text(Bytes),
}

impl Cell {
    /// The text; `None` for NULL and for what the log does not have.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(bytes) => str::from_utf8(bytes).ok(),
            Self::Null | Self::Unchanged => None,
        }
    }
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum DecodeError {
    #[error("a message of the log ends too early")]
    Truncated,
    #[error("a message of the log has a field of unknown kind {0:#x}")]
    UnknownKind(u8),
    #[error("a name in the log is not UTF-8")]
    NotUtf8,
}

/// Reads one message.
pub(crate) fn decode(bytes: Bytes) -> Result<Message, DecodeError> {
    let mut input = Input(bytes);
    Ok(match input.u8()? {
        b'B' => {
            input.skip(16)?;
            Message::Begin { xid: input.u32()? }
        }
        b'C' => {
            input.skip(9)?;
            Message::Commit { end: input.u64()? }
        }
        b'R' => Message::Relation(input.relation()?),
        b'I' => {
            let relation = input.u32()?;
            input.expect(b'N')?;
            Message::Insert {
                relation,
                new: input.tuple()?,
            }
        }
        b'U' => input.update()?,
        b'D' => {
            let relation = input.u32()?;
            match input.u8()? {
                b'K' | b'O' => Message::Delete {
                    relation,
                    old: input.tuple()?,
                },
                other => return Err(DecodeError::UnknownKind(other)),
            }
        }
        b'T' => {
            let count = input.u32()?;
            input.skip(1)?;
            let relations = (0..count).map(|_| input.u32()).collect::<Result<_, _>>()?;
            Message::Truncate { relations }
        }
        b'O' | b'Y' | b'M' => Message::Other,
        other => return Err(DecodeError::UnknownKind(other)),
    })
}

/// The rest of a message.
struct Input(Bytes);

impl Input {
    fn need(&self, count: usize) -> Result<(), DecodeError> {
        if self.0.remaining() < count {
            Err(DecodeError::Truncated)
        } else {
            Ok(())
        }
    }

    fn skip(&mut self, count: usize) -> Result<(), DecodeError> {
        self.need(count)?;
        self.0.advance(count);
        Ok(())
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.need(1)?;
        Ok(self.0.get_u8())
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.need(2)?;
        Ok(self.0.get_u16())
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.need(4)?;
        Ok(self.0.get_u32())
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.need(8)?;
        Ok(self.0.get_u64())
    }

    fn expect(&mut self, kind: u8) -> Result<(), DecodeError> {
        match self.u8()? {
            found if found == kind => Ok(()),
            other => Err(DecodeError::UnknownKind(other)),
        }
    }

    fn bytes(&mut self, count: usize) -> Result<Bytes, DecodeError> {
        self.need(count)?;
        Ok(self.0.split_to(count))
    }

    fn name(&mut self) -> Result<String, DecodeError> {
        let length = self
            .0
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(DecodeError::Truncated)?;
        let name = self.bytes(length)?;
        self.skip(1)?;
        String::from_utf8(name.into()).map_err(|_| DecodeError::NotUtf8)
    }

    fn relation(&mut self) -> Result<Relation, DecodeError> {
        let oid = self.u32()?;
        let namespace = self.name()?;
        let name = self.name()?;
        self.skip(1)?;
        let count = self.u16()?;
        let columns = (0..count)
            .map(|_| self.relation_column())
            .collect::<Result<_, _>>()?;
        Ok(Relation {
            oid,
            namespace,
            name,
            columns,
        })
    }

    fn relation_column(&mut self) -> Result<RelationColumn, DecodeError> {
        self.skip(1)?;
        let name = self.name()?;
        let type_oid = self.u32()?;
        self.skip(4)?;
        Ok(RelationColumn { name, type_oid })
    }

    fn update(&mut self) -> Result<Message, DecodeError> {
        let relation = self.u32()?;
        let old = match self.u8()? {
            b'N' => {
                return Ok(Message::Update {
                    relation,
                    old: None,
                    new: self.tuple()?,
                });
            }
            // With the whole old row, whether the key has changed shows only by comparing.
            b'K' | b'O' => self.tuple()?,
            other => return Err(DecodeError::UnknownKind(other)),
        };
        self.expect(b'N')?;
        Ok(Message::Update {
            relation,
            old: Some(old),
            new: self.tuple()?,
        })
    }

    fn tuple(&mut self) -> Result<Vec<Cell>, DecodeError> {
        let count = self.u16()?;
        (0..count).map(|_| self.cell()).collect()
    }

    fn cell(&mut self) -> Result<Cell, DecodeError> {
        match self.u8()? {
            b'n' => Ok(Cell::Null),
            b'u' => Ok(Cell::Unchanged),
            b't' => {
                let length = self.u32()?;
                let length = usize::try_from(length).map_err(|_| DecodeError::Truncated)?;
                Ok(Cell::Text(self.bytes(length)?))
            }
            other => Err(DecodeError::UnknownKind(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_update_that_changes_the_key_has_both_rows() {
        let bytes = b"U\0\0\0\x07K\0\x01t\0\0\0\x011N\0\x03t\0\0\0\x012un".to_vec();
        let text = |text: &'static str| Cell::Text(Bytes::from_static(text.as_bytes()));
        let expected = Message::Update {
            relation: 7,
            old: Some(vec![text("1")]),
            new: vec![text("2"), Cell::Unchanged, Cell::Null],
        };
        assert_eq!(decode(bytes.into()), Ok(expected));
    }

    #[test]
    fn every_prefix_of_a_message_is_refused() {
        let whole = b"R\0\0\0\x07public\0items\0d\0\x01\x01id\0\0\0\0\x17\xff\xff\xff\xff".to_vec();
        assert!(matches!(
            decode(whole.clone().into()),
            Ok(Message::Relation(_))
        ));
        for length in 0..whole.len() {
            let prefix = Bytes::copy_from_slice(&whole[..length]);
            assert_eq!(
                decode(prefix),
                Err(DecodeError::Truncated),
                "{length} bytes"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_can_panic(
            kind in prop::sample::select(b"BCRIUDTOYM?".to_vec()),
            rest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes: Vec<u8> = std::iter::once(kind).chain(rest).collect();
            let _ = decode(bytes.into());
        }

        #[test]
        fn rows_of_any_content_do_not_panic(
            rest in prop::collection::vec(
                prop::sample::select(vec![0, 1, 2, b'N', b'K', b't', b'n', b'u', 255]), 0..60),
        ) {
            let bytes: Vec<u8> = b"U\0\0\0\x01".iter().copied().chain(rest).collect();
            let _ = decode(bytes.into());
        }
    }
}
