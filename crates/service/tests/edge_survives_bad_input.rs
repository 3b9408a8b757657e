//! Nothing that a connection says or fails to say keeps the service from serving honest clients.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod edge;

use anabranch_crdt::{
    ColumnId, Delta, Hlc, Millis, ReplicaId, RowKey, RowState, Stamp, TableId, Value,
};
use anabranch_protocol::{
    ClientFrame, Inserts, LocalTransaction, RefusalCode, Seq, ServerFrame, Subscription,
    SubscriptionId,
    limits::{
        FRAGMENT_BYTES_MAX, FRAME_BYTES_MAX, HELLO_BYTES_MAX, TOKEN_BYTES_MAX,
        UP_CREDIT_TRANSACTIONS,
    },
};
use edge::{Edge, TOKEN, hello, spelled, write_to_store};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

type Test = Result<(), Box<dyn std::error::Error>>;

fn transaction(seq: u64, deltas: Vec<Delta>) -> LocalTransaction {
    LocalTransaction {
        seq: Seq(seq),
        stamp: stamp(),
        inserts: Inserts::all(deltas.len()),
        replaces: 0,
        deltas,
    }
}

fn stamp() -> Stamp {
    Stamp::new(Hlc::new(Millis(1_000), 0).unwrap(), ReplicaId([7; 16]))
}

fn delta(table: u32, key: Vec<Value>, column: u16, value: Value) -> Delta {
    let mut state = RowState::live(stamp());
    state.set(ColumnId(column), stamp(), value);
    Delta {
        table: TableId(table),
        key: RowKey(key),
        state,
    }
}

#[tokio::test]
async fn bytes_that_are_no_frame_are_refused() -> Test {
    let mut edge = Edge::start().await;
    let garbage: [&[u8]; 5] = [
        &[],
        &[1],
        b"\x01\x00\xff\xff\xff\xff\xff\xff",
        b"\x01\x80",
        b"\x01\x02\xff\xff\xff\xff",
    ];
    for bytes in garbage {
        let mut raw = edge.raw().await;
        raw.bytes(bytes).await;
        assert_eq!(raw.refused().await, RefusalCode::Protocol, "{bytes:?}");
        let mut raw = edge.welcomed(7).await;
        raw.bytes(bytes).await;
        assert_eq!(raw.refused().await, RefusalCode::Protocol, "{bytes:?}");
    }
    edge.serves_the_honest().await;
    Ok(())
}

#[tokio::test]
async fn a_text_message_is_refused() -> Test {
    let mut edge = Edge::start().await;
    let mut raw = edge.raw().await;
    raw.send(Message::text("hello")).await;
    assert_eq!(raw.refused().await, RefusalCode::Protocol);
    edge.serves_the_honest().await;
    Ok(())
}

#[tokio::test]
async fn an_unknown_form_of_fragment_is_refused() -> Test {
    let mut edge = Edge::start().await;
    let mut raw = edge.raw().await;
    raw.bytes(&[2, 0, 0]).await;
    assert_eq!(raw.refused().await, RefusalCode::Protocol);
    edge.serves_the_honest().await;
    Ok(())
}

#[tokio::test]
async fn an_oversized_fragment_ends_the_connection() -> Test {
    let mut edge = Edge::start().await;
    let mut raw = edge.welcomed(7).await;
    raw.bytes(&vec![1; FRAGMENT_BYTES_MAX + 1]).await;
    raw.hung_up().await;
    edge.serves_the_honest().await;
    Ok(())
}

#[tokio::test]
async fn before_the_hello_no_frame_may_be_larger_than_one() -> Test {
    let mut edge = Edge::start().await;
    let mut raw = edge.raw().await;
    let fragment = [&[1, 1][..], &[0; 1_000]].concat();
    for _ in 0..=HELLO_BYTES_MAX / 1_000 {
        raw.bytes(&fragment).await;
    }
    assert_eq!(raw.refused().await, RefusalCode::Protocol);
    edge.serves_the_honest().await;
    Ok(())
}

#[tokio::test]
async fn a_frame_that_never_ends_is_refused_at_its_limit() -> Test {
    let mut edge = Edge::start().await;
    let mut raw = edge.welcomed(7).await;
    let fragment = [&[1, 1][..], &vec![0; FRAGMENT_BYTES_MAX - 2]].concat();
    for _ in 0..=FRAME_BYTES_MAX / (FRAGMENT_BYTES_MAX - 2) {
        raw.bytes(&fragment).await;
    }
    assert_eq!(raw.refused().await, RefusalCode::Protocol);
    edge.serves_the_honest().await;
    Ok(())
}

#[tokio::test]
async fn a_version_that_is_not_spoken_is_refused() -> Test {
    let mut edge = Edge::start().await;
    let mut raw = edge.raw().await;
    let mut hello = hello(7, TOKEN);
    if let ClientFrame::Hello { versions, .. } = &mut hello {
        *versions = (900, 901);
    }
    raw.say(&hello).await;
    assert_eq!(raw.refused().await, RefusalCode::Version);
    edge.serves_the_honest().await;
    Ok(())
}

#[tokio::test]
async fn frames_out_of_order_are_refused() -> Test {
    let mut edge = Edge::start().await;
    let mut raw = edge.raw().await;
    raw.say(&ClientFrame::Push(Vec::new())).await;
    assert_eq!(raw.refused().await, RefusalCode::Protocol);
    let mut raw = edge.welcomed(7).await;
    raw.say(&hello(7, TOKEN)).await;
    assert_eq!(raw.refused().await, RefusalCode::Protocol);
    edge.serves_the_honest().await;
    Ok(())
}

#[tokio::test]
async fn a_wrong_token_is_refused() -> Test {
    let mut edge = Edge::start().await;
    for token in ["", "sesam", "sesame seed"] {
        let mut raw = edge.raw().await;
        raw.say(&hello(7, token)).await;
        assert_eq!(raw.refused().await, RefusalCode::Unauthenticated);
    }
    let mut raw = edge.raw().await;
    raw.say(&hello(7, &"x".repeat(TOKEN_BYTES_MAX + 1))).await;
    assert_eq!(raw.refused().await, RefusalCode::TooMuch);
    edge.serves_the_honest().await;
    Ok(())
}

#[tokio::test]
async fn a_flood_beyond_the_credit_is_refused() -> Test {
    let mut edge = Edge::start().await;
    let mut raw = edge.welcomed(7).await;
    let most = u64::from(UP_CREDIT_TRANSACTIONS);
    let flood = (1..=most + 1).map(|seq| transaction(seq, Vec::new()));
    raw.say(&ClientFrame::Push(flood.collect())).await;
    assert_eq!(raw.refused().await, RefusalCode::TooMuch);
    edge.serves_the_honest().await;
    Ok(())
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_middle_of_a_frame_is_forgotten() -> Test {
    let mut edge = Edge::start().await;
    let mut raw = edge.welcomed(7).await;
    raw.bytes(&[1, 1, 3]).await;
    // A WebSocket message that promises 100 bytes and breaks off.
    raw.tcp().write_all(&[0x82, 0xe4, 0, 0, 0, 0, 1, 2]).await?;
    raw.tcp().flush().await?;
    drop(raw);
    edge.serves_the_honest().await;
    Ok(())
}

#[tokio::test]
async fn a_replica_that_never_reads_holds_up_nobody() -> Test {
    let mut edge = Edge::start().await;
    edge.serves_the_honest().await;
    let text = "x".repeat(100_000);
    write_to_store(
        edge.folder.path(),
        &format!(
            "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < 200)
             INSERT INTO notes SELECT id, 2, '{text}' FROM n"
        ),
    );
    let mut raw = edge.welcomed(7).await;
    let everything = Subscription {
        id: SubscriptionId::new(0).unwrap(),
        shape: spelled("owner > 0"),
        cursor: None,
    };
    raw.say(&ClientFrame::Subscribe(vec![everything])).await;
    raw.say(&ClientFrame::Credit(1_000_000)).await;
    edge.serves_the_honest().await;
    // It asks on without reading, until the service has enough of it.
    for _ in 0..10_000 {
        raw.say(&ClientFrame::Unsubscribe(SubscriptionId::new(1).unwrap()))
            .await;
    }
    edge.serves_the_honest().await;
    Ok(())
}

#[tokio::test]
async fn transactions_that_make_no_sense_are_rejected_alone() -> Test {
    let mut edge = Edge::start().await;
    let mut raw = edge.welcomed(7).await;
    let key = |number| vec![Value::Integer(number)];
    let text = || Value::text("x");
    let nonsense = [
        vec![delta(99, key(1), 2, text())],
        vec![delta(1, key(1), 99, text())],
        vec![delta(1, Vec::new(), 3, text())],
        vec![delta(1, vec![Value::Integer(1), Value::Null], 3, text())],
        vec![delta(1, vec![Value::Null], 3, text())],
        vec![delta(1, vec![Value::text("not a number")], 3, text())],
        vec![delta(
            u32::MAX,
            key(i64::MIN),
            u16::MAX,
            Value::Blob(vec![0; 9]),
        )],
    ];
    let count = nonsense.len() as u64;
    let transactions = (1..)
        .zip(nonsense)
        .map(|(seq, deltas)| transaction(seq, deltas));
    raw.say(&ClientFrame::Push(transactions.collect())).await;
    let sound = transaction(count + 1, vec![delta(1, key(5), 3, text())]);
    raw.say(&ClientFrame::Push(vec![sound])).await;
    let mut outcomes = Vec::new();
    while outcomes.len() < usize::try_from(count)? + 1 {
        match raw.frame().await.expect("hung up") {
            ServerFrame::Rejected { seq, .. } => outcomes.push((seq.0, false)),
            ServerFrame::Transaction { accepted, .. } => {
                outcomes.extend(accepted.into_iter().map(|seq| (seq.0, true)));
            }
            ServerFrame::Refused { message, .. } => panic!("{message}"),
            _ => {}
        }
    }
    for (seq, accepted) in outcomes {
        assert_eq!(accepted, seq > count, "transaction {seq}");
    }
    edge.serves_the_honest().await;
    Ok(())
}

#[tokio::test]
async fn numbers_that_make_no_sense_hold_up_no_other_replica() -> Test {
    let mut edge = Edge::start().await;
    let mut raw = edge.welcomed(7).await;
    for number in [1, 3, u64::MAX - 1, u64::MAX, u64::MAX] {
        let sound = vec![delta(1, vec![Value::Integer(5)], 3, Value::text("x"))];
        raw.say(&ClientFrame::Push(vec![transaction(number, sound)]))
            .await;
    }
    edge.serves_the_honest().await;
    Ok(())
}
