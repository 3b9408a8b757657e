//! Row keys as bytes: the key of the clock tables. Equal keys are equal bytes, and keys of one
//! table order as their values do, save that identifiers in the form of a UUID pack to 16 bytes.
//!
//! One value after another: a class byte, then the content. Integers and reals are big-endian with
//! the sign arranged to order; text and blobs end with `00 00` and write a zero byte as `00 ff`.

use anabranch_crdt::{RowKey, Value};

use super::values::{uuid_bytes, uuid_text};

/// The packed form of a key.
pub fn pack(key: &RowKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(18);
    for value in &key.0 {
        pack_value(&mut out, value);
    }
    out
}

/// Reads a packed key back; `None` if the bytes are not one.
pub fn unpack(bytes: &[u8]) -> Option<RowKey> {
    let mut rest = bytes;
    let mut values = Vec::with_capacity(1);
    while let Some((class, content)) = rest.split_first() {
        let (value, left) = unpack_value(*class, content)?;
        values.push(value);
        rest = left;
    }
    (!values.is_empty()).then_some(RowKey(values))
}

fn pack_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(NULL),
        Value::Integer(number) => {
            out.push(INTEGER);
            out.extend_from_slice(&(number ^ i64::MIN).to_be_bytes());
        }
        Value::Real(real) => {
            let bits = real.get().to_bits();
            let ordered = if bits & SIGN == 0 { bits | SIGN } else { !bits };
            out.push(REAL);
            out.extend_from_slice(&ordered.to_be_bytes());
        }
        Value::Text(text) => match uuid_bytes(text) {
            Some(bytes) => {
                out.push(UUID);
                out.extend_from_slice(&bytes);
            }
            None => pack_bytes(out, TEXT, text.as_bytes()),
        },
        Value::Blob(bytes) => pack_bytes(out, BLOB, bytes),
    }
}

fn pack_bytes(out: &mut Vec<u8>, class: u8, bytes: &[u8]) {
    out.push(class);
    for byte in bytes {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

fn unpack_value(class: u8, content: &[u8]) -> Option<(Value, &[u8])> {
    match class {
        NULL => Some((Value::Null, content)),
        INTEGER => {
            let (bytes, rest) = content.split_first_chunk()?;
            Some((Value::Integer(i64::from_be_bytes(*bytes) ^ i64::MIN), rest))
        }
        REAL => {
            let (bytes, rest) = content.split_first_chunk()?;
            let ordered = u64::from_be_bytes(*bytes);
            let bits = if ordered & SIGN == 0 {
                !ordered
            } else {
                ordered & !SIGN
            };
            Some((Value::real(f64::from_bits(bits)), rest))
        }
        UUID => {
            let (bytes, rest) = content.split_first_chunk()?;
            Some((Value::Text(uuid_text(*bytes)), rest))
        }
        TEXT => {
            let (bytes, rest) = unpack_bytes(content)?;
            Some((Value::Text(String::from_utf8(bytes).ok()?), rest))
        }
        BLOB => {
            let (bytes, rest) = unpack_bytes(content)?;
            Some((Value::Blob(bytes), rest))
        }
        _ => None,
    }
}

fn unpack_bytes(content: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut out = Vec::new();
    let mut rest = content;
    loop {
        match rest {
            [0, 0xff, left @ ..] => {
                out.push(0);
                rest = left;
            }
            [0, 0, left @ ..] => return Some((out, left)),
            [0, ..] | [] => return None,
            [byte, left @ ..] => {
                out.push(*byte);
                rest = left;
            }
        }
    }
}

const SIGN: u64 = 1 << 63;
const NULL: u8 = 1;
const INTEGER: u8 = 2;
const REAL: u8 = 3;
const TEXT: u8 = 4;
const BLOB: u8 = 5;
const UUID: u8 = 6;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<i64>().prop_map(Value::Integer),
            any::<f64>()
                .prop_filter("NaN is text", |x| !x.is_nan())
                .prop_map(Value::real),
            "[a\\x00\\x01b]{0,4}".prop_map(Value::Text),
            prop::collection::vec(prop_oneof![Just(0_u8), Just(255), any::<u8>()], 0..4)
                .prop_map(Value::Blob),
            any::<[u8; 16]>().prop_map(|bytes| Value::Text(uuid_text(bytes))),
        ]
    }

    proptest! {
        #[test]
        fn keys_come_back_whole(values in prop::collection::vec(value(), 1..4)) {
            let key = RowKey(values);
            prop_assert_eq!(unpack(&pack(&key)), Some(key));
        }

        #[test]
        fn packed_keys_order_as_their_values(
            a in prop::collection::vec(any::<i64>().prop_map(Value::Integer), 2),
            b in "[a\\x00\\x01b]{0,4}", c in "[a\\x00\\x01b]{0,4}",
        ) {
            let first = RowKey(vec![Value::Text(b), a[0].clone()]);
            let second = RowKey(vec![Value::Text(c), a[1].clone()]);
            prop_assert_eq!(pack(&first).cmp(&pack(&second)), first.cmp(&second));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = unpack(&bytes);
        }
    }
}
