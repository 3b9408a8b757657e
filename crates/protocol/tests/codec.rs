//! Frames survive the wire, bytes from anybody never panic, and nothing inflates beyond its limit.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use anabranch_crdt::{
    ColumnId, ColumnState, Counter, Delta, Element, ElementSet, Entry, Existence, Hlc, Increment,
    Life, Millis, ReplicaId, RowKey, RowState, Stamp, TableId, Total, Value,
};
use anabranch_protocol::{
    Change, ClientFrame, Cursor, Epoch, Inserts, LocalTransaction, Position, RefusalCode,
    RejectCode, Seq, ServerFrame, ShapeRequest, Subscription, SubscriptionId, SubscriptionSet,
    codec::{
        Assembler, CodecError, decode_client_frame, decode_deltas, decode_schema,
        decode_server_frame, decode_transaction, encode_client_frame, encode_deltas,
        encode_server_frame, fragments, hash_transaction,
    },
    limits::{FRAGMENT_BYTES_MAX, FRAME_BYTES_MAX, HELLO_BYTES_MAX},
};
use proptest::prelude::*;

fn stamp() -> impl Strategy<Value = Stamp> {
    (0..1_u64 << 40, any::<u16>(), 0..4_u8).prop_map(|(ms, counter, replica)| {
        Stamp::new(
            Hlc::new(Millis(ms), counter).unwrap(),
            ReplicaId([replica; 16]),
        )
    })
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        any::<f64>().prop_map(Value::real),
        ".{0,40}".prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Blob),
    ]
}

fn existence() -> impl Strategy<Value = Existence> {
    let entry = (stamp(), any::<bool>()).prop_map(|(stamp, removed)| {
        let life = if removed { Life::Removed } else { Life::Live };
        Entry { stamp, life }
    });
    prop::collection::vec(entry, 0..4).prop_map(|entries| entries.into_iter().collect())
}

fn other_column() -> impl Strategy<Value = ColumnState> {
    let total = (stamp(), any::<i64>()).prop_map(|(through, sum)| Total { through, sum });
    let increment = (stamp(), any::<i64>()).prop_map(|(stamp, amount)| Increment { stamp, amount });
    let shares = (
        prop::collection::vec(total, 0..3),
        prop::collection::vec(increment, 0..3),
    );
    let counter = shares.prop_map(|(totals, open)| ColumnState::Counter(Counter::of(totals, open)));
    let text = prop_oneof![Just("null"), Just("7"), Just("\"a\""), Just("[1, 2]")];
    let element = (text, existence()).prop_map(|(text, existence)| Element {
        text: text.to_owned(),
        existence,
    });
    let set = prop::collection::vec(element, 0..4);
    prop_oneof![
        counter,
        set.prop_map(|elements| ColumnState::Set(ElementSet::of(elements)))
    ]
}

fn state() -> impl Strategy<Value = RowState> {
    let cells = prop::collection::vec((0..70_u16, stamp(), value()), 0..6);
    let columns = prop::collection::vec((70..80_u16, other_column()), 0..3);
    (cells, columns, existence()).prop_map(|(cells, columns, existence)| {
        let mut state = RowState::of_existence(existence);
        for (column, stamp, value) in cells {
            state.set(ColumnId(column), stamp, value);
        }
        for (column, other) in columns {
            state.set_column(ColumnId(column), other);
        }
        state
    })
}

fn delta() -> impl Strategy<Value = Delta> {
    (any::<u32>(), prop::collection::vec(value(), 1..3), state()).prop_map(|(table, key, state)| {
        Delta {
            table: TableId(table),
            key: RowKey(key),
            state,
        }
    })
}

fn transaction() -> impl Strategy<Value = LocalTransaction> {
    (1..u64::MAX, stamp(), prop::collection::vec(delta(), 0..5)).prop_map(|(seq, stamp, deltas)| {
        LocalTransaction {
            seq: Seq(seq),
            replaces: seq / 2,
            stamp,
            inserts: deltas.iter().map(|delta| delta.table.0 % 2 == 0).collect(),
            deltas,
        }
    })
}

fn change() -> impl Strategy<Value = Change> {
    (delta(), any::<u64>()).prop_map(|(delta, shapes)| Change {
        table: delta.table,
        key: delta.key,
        shapes: SubscriptionSet(shapes),
        state: delta.state,
    })
}

proptest! {
    #[test]
    fn pushes_survive_the_wire(transactions in prop::collection::vec(transaction(), 0..4)) {
        let frame = ClientFrame::Push(transactions);
        prop_assert_eq!(decode_client_frame(&encode_client_frame(&frame).unwrap()).unwrap(), frame);
    }

    #[test]
    fn transactions_survive_the_wire(
        changes in prop::collection::vec(change(), 0..5),
        rows in prop::collection::vec(delta(), 0..5),
        seqs in prop::collection::vec(any::<u64>().prop_map(Seq), 0..3),
    ) {
        let cursor = Cursor { epoch: Epoch(7), position: Position(9) };
        let live = SubscriptionSet(5);
        let down = ServerFrame::Transaction { cursor, live, accepted: seqs, changes, more: true };
        prop_assert_eq!(decode_server_frame(&encode_server_frame(&down).unwrap()).unwrap(), down);
        let rejected = ServerFrame::Rejected {
            seq: Seq(1),
            code: RejectCode::Constraint,
            reason: "no".to_owned(),
            rows,
        };
        let bytes = encode_server_frame(&rejected).unwrap();
        prop_assert_eq!(decode_server_frame(&bytes).unwrap(), rejected);
    }

    #[test]
    fn bytes_from_anybody_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_client_frame(&bytes);
        let _ = decode_server_frame(&bytes);
        let _ = decode_transaction(&bytes);
        let _ = decode_deltas(&bytes);
        let _ = decode_schema(&bytes);
        let mut assembler = Assembler::new(HELLO_BYTES_MAX);
        let _ = assembler.push(&bytes);
    }

    #[test]
    fn damaged_frames_never_panic(
        transaction in transaction(),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = encode_client_frame(&ClientFrame::Push(vec![transaction])).unwrap();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        let _ = decode_client_frame(&bytes);
        let _ = decode_client_frame(&bytes[..place]);
    }

    #[test]
    fn fragments_come_together(frame in prop::collection::vec(0..4_u8, 1..5000)) {
        let mut assembler = Assembler::new(FRAME_BYTES_MAX);
        let mut pieces = fragments(&frame);
        let last = pieces.pop().unwrap();
        for piece in pieces {
            prop_assert_eq!(assembler.push(&piece).unwrap(), None);
        }
        prop_assert_eq!(assembler.push(&last).unwrap(), Some(frame));
    }
}

#[test]
fn every_other_frame_survives_the_wire() {
    let id = SubscriptionId::new(62).unwrap();
    let cursor = Cursor {
        epoch: Epoch(u64::MAX),
        position: Position(1),
    };
    for frame in [
        ClientFrame::Hello {
            versions: (1, 3),
            replica: ReplicaId([9; 16]),
            token: "secret".to_owned(),
            schema_version: 4,
            first_pending: Seq(5),
            credit_frames: 6,
        },
        ClientFrame::Subscribe(vec![
            Subscription {
                id,
                shape: ShapeRequest::Named {
                    name: "team".to_owned(),
                    parameters: vec![("id".to_owned(), Value::Integer(3))],
                },
                cursor: Some(cursor),
            },
            Subscription {
                id,
                shape: ShapeRequest::Spelled {
                    table: "steps".to_owned(),
                    filter: Some("a = :b".to_owned()),
                    columns: vec!["a".to_owned()],
                    parameters: vec![],
                },
                cursor: None,
            },
        ]),
        ClientFrame::Unsubscribe(id),
        ClientFrame::Credit(8),
    ] {
        assert_eq!(
            decode_client_frame(&encode_client_frame(&frame).unwrap()).unwrap(),
            frame
        );
    }
    for frame in [
        ServerFrame::SnapshotEnd { id, cursor },
        ServerFrame::SnapshotReset(id),
        ServerFrame::Unsubscribed(id),
        ServerFrame::Accepted(Seq(3)),
        ServerFrame::Credit(4),
        ServerFrame::SubscriptionRefused {
            id,
            code: RefusalCode::InvalidShape,
            message: "no such table".to_owned(),
        },
        ServerFrame::Refused {
            code: RefusalCode::ClockAhead,
            message: "ahead".to_owned(),
        },
    ] {
        assert_eq!(
            decode_server_frame(&encode_server_frame(&frame).unwrap()).unwrap(),
            frame
        );
    }
}

/// The layout may not move: replicas in the field keep these bytes in their files.
#[test]
fn golden_vectors() {
    let stamp = Stamp::new(Hlc::new(Millis(1), 2).unwrap(), ReplicaId([0xab; 16]));
    let mut state = RowState::live(stamp);
    state.set(ColumnId(2), stamp, Value::text("hi"));
    state.set(ColumnId(3), stamp, Value::Integer(-1));
    let transaction = LocalTransaction {
        seq: Seq(1),
        stamp,
        deltas: vec![Delta {
            table: TableId(7),
            key: RowKey(vec![Value::Integer(5)]),
            state,
        }],
        inserts: Inserts::all(1),
        replaces: 0,
    };
    let bytes = encode_client_frame(&ClientFrame::Push(vec![transaction.clone()])).unwrap();
    let replica = "ab".repeat(16);
    let expected = format!(
        "03 01 01 fc04000200 {replica} 01 fc04000200 {replica} 01 07 01 010a 02 02 00 03 02 6869 \
         03 00 01 01 01 00 00 00 01 01 00"
    );
    assert_eq!(hex(&bytes), expected.replace(' ', ""));
    assert_eq!(
        hex(&hash_transaction(&transaction).unwrap())[..16],
        *hex(blake3::hash(&bytes[2..]).as_bytes()).get(..16).unwrap()
    );
    assert_eq!(
        hex(&encode_server_frame(&ServerFrame::Accepted(Seq(300))).unwrap()),
        "06fb2c01"
    );
    let credit = encode_client_frame(&ClientFrame::Credit(16)).unwrap();
    assert_eq!(hex(&credit), "0410");
    assert_eq!(hex(&fragments(&credit)[0]), "01000410");
}

#[test]
fn the_layout_of_counters_and_sets_stands_still() {
    let stamp = Stamp::new(Hlc::new(Millis(1), 2).unwrap(), ReplicaId([0xab; 16]));
    let mut state = RowState::new();
    let counter = Counter::of(
        [Total {
            through: Stamp::GENESIS,
            sum: 40,
        }],
        [Increment { stamp, amount: -1 }],
    );
    state.set_column(ColumnId(4), ColumnState::Counter(counter));
    let set = ElementSet::new().write(&Value::text("[\"a\"]"), stamp);
    state.set_column(ColumnId(5), ColumnState::Set(set));
    let delta = Delta {
        table: TableId(7),
        key: RowKey(vec![Value::Integer(5)]),
        state,
    };
    let bytes = encode_deltas(std::slice::from_ref(&delta)).unwrap();
    let (server, replica) = ("ff".repeat(16), "ab".repeat(16));
    let expected = format!(
        "02 00 {server} fc04000200 {replica} 01 07 01 010a 00 00 02 04 00 01 00 50 01 01 01 \
         05 01 01 03 226122 01 01 00"
    );
    assert_eq!(hex(&bytes), expected.replace(' ', ""));
    assert_eq!(decode_deltas(&bytes).unwrap(), [delta]);
}

#[test]
fn an_element_in_another_spelling_is_refused() {
    let stamp = Stamp::GENESIS;
    let mut existence = Existence::new();
    existence.add(stamp);
    for text in ["", "[1,2]", "\"a", "1, 2", "1.0e1"] {
        let element = Element {
            text: text.to_owned(),
            existence: existence.clone(),
        };
        let mut state = RowState::new();
        state.set_column(ColumnId(5), ColumnState::Set(ElementSet::of([element])));
        let delta = Delta {
            table: TableId(7),
            key: RowKey(vec![]),
            state,
        };
        let refused = decode_deltas(&encode_deltas(&[delta]).unwrap());
        assert!(
            matches!(refused, Err(CodecError::Malformed { .. })),
            "{text}"
        );
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn trailing_bytes_are_refused() {
    let mut bytes = encode_client_frame(&ClientFrame::Credit(1)).unwrap();
    bytes.push(0);
    let expected = CodecError::TrailingBytes {
        what: "client frame",
        count: 1,
    };
    assert_eq!(decode_client_frame(&bytes), Err(expected));
}

#[test]
fn a_claimed_length_allocates_nothing() {
    // A push of 2^62 transactions, in nine bytes.
    let bytes = [3, 253, 0, 0, 0, 0, 0, 0, 0, 0x40];
    assert!(matches!(
        decode_client_frame(&bytes),
        Err(CodecError::Malformed { .. })
    ));
}

#[test]
fn a_bomb_is_not_inflated() {
    let bomb = fragments(&vec![0; HELLO_BYTES_MAX * 100]);
    assert_eq!(bomb.len(), 1);
    let refused = Assembler::new(HELLO_BYTES_MAX).push(&bomb[0]);
    assert_eq!(
        refused,
        Err(CodecError::TooLarge {
            limit_bytes: HELLO_BYTES_MAX
        })
    );
    // The claim alone is not believed either.
    let lie = [
        &[1, 2][..],
        &u32::try_from(FRAME_BYTES_MAX).unwrap().to_le_bytes(),
        &[0; 8],
    ]
    .concat();
    assert!(matches!(
        Assembler::new(FRAME_BYTES_MAX).push(&lie),
        Err(CodecError::Malformed { .. })
    ));
}

#[test]
fn oversized_and_unknown_fragments_are_refused() {
    let mut assembler = Assembler::new(FRAGMENT_BYTES_MAX * 2);
    let oversized = vec![1; FRAGMENT_BYTES_MAX + 1];
    assert!(matches!(
        assembler.push(&oversized),
        Err(CodecError::TooLarge { .. })
    ));
    assert_eq!(assembler.push(&[9, 0, 0]), Err(CodecError::UnknownForm(9)));
    let mut piece = vec![0; FRAGMENT_BYTES_MAX];
    piece[0] = 1;
    piece[1] = 1;
    assert_eq!(assembler.push(&piece), Ok(None));
    assert_eq!(assembler.push(&piece), Ok(None));
    assert!(matches!(
        assembler.push(&piece),
        Err(CodecError::TooLarge { .. })
    ));
}
