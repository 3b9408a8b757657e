//! The service's end holds a replica to the order, the credit and the identity it has.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use anabranch_crdt::{Hlc, Millis, ReplicaId, Stamp};
use anabranch_protocol::{
    ClientFrame, Inserts, LocalTransaction, RefusalCode, Seq, ServerFrame,
    limits::{BROKEN_SESSIONS_MAX, DOWN_CREDIT_FRAMES, UP_CREDIT_TRANSACTIONS},
    session::{
        ClientPhase, ClientSession, Greeting, Request, RetryPolicy, ServerSession, Stopped,
        Violation,
    },
};

const REPLICA: ReplicaId = ReplicaId([1; 16]);

fn hello(versions: (u16, u16)) -> ClientFrame {
    ClientFrame::Hello {
        versions,
        replica: REPLICA,
        token: String::new(),
        schema_version: 0,
        first_pending: Seq(4),
        credit_frames: 2,
    }
}

fn transaction(seq: u64, replica: ReplicaId) -> LocalTransaction {
    let stamp = Stamp::new(Hlc::new(Millis(1), 0).unwrap(), replica);
    LocalTransaction {
        seq: Seq(seq),
        stamp,
        deltas: Vec::new(),
        inserts: Inserts::default(),
        replaces: 0,
    }
}

fn open() -> ServerSession {
    let mut session = ServerSession::default();
    session.receive(hello((1, 1))).unwrap();
    session.welcome((Seq(0), Hlc::ZERO), Millis(0), 0, None);
    session
}

fn code(session: &mut ServerSession, frame: ClientFrame) -> RefusalCode {
    session.receive(frame).unwrap_err().code
}

#[test]
fn a_session_begins_with_a_hello_and_has_only_one() {
    let mut session = ServerSession::default();
    assert_eq!(
        code(&mut session, ClientFrame::Credit(1)),
        RefusalCode::Protocol
    );
    session.receive(hello((1, 1))).unwrap();
    assert_eq!(
        code(&mut session, ClientFrame::Credit(1)),
        RefusalCode::Protocol
    );
    assert_eq!(code(&mut open(), hello((1, 1))), RefusalCode::Protocol);
}

#[test]
fn versions_without_one_in_common_are_refused_with_both_ranges() {
    let refusal = ServerSession::default().receive(hello((2, 9))).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Version);
    assert!(refusal.message.contains("2 to 9") && refusal.message.contains("upgrade"));
    assert!(ServerSession::default().receive(hello((0, 9))).is_ok());
}

#[test]
fn transactions_come_in_order_and_from_their_own_replica() {
    let mut session = open();
    let pushed = ClientFrame::Push(vec![transaction(4, REPLICA), transaction(5, REPLICA)]);
    assert!(matches!(session.receive(pushed), Ok(Request::Merge(all)) if all.len() == 2));
    let refused_between = ClientFrame::Push(vec![transaction(7, REPLICA)]);
    assert!(session.receive(refused_between).is_ok());
    let again = ClientFrame::Push(vec![transaction(7, REPLICA)]);
    assert_eq!(code(&mut session, again), RefusalCode::Protocol);
    let forged = ClientFrame::Push(vec![transaction(8, ReplicaId([2; 16]))]);
    assert_eq!(code(&mut session, forged), RefusalCode::Protocol);
}

#[test]
fn neither_end_exceeds_the_others_credit() {
    let mut session = open();
    assert!(session.may_send());
    session.spend();
    session.spend();
    assert!(!session.may_send());
    session.receive(ClientFrame::Credit(1)).unwrap();
    assert!(session.may_send());

    let count = u64::from(UP_CREDIT_TRANSACTIONS);
    let flood = (4..=4 + count)
        .map(|seq| transaction(seq, REPLICA))
        .collect();
    assert_eq!(
        code(&mut session, ClientFrame::Push(flood)),
        RefusalCode::TooMuch
    );
}

fn greeting() -> Greeting {
    Greeting {
        replica: REPLICA,
        token: String::new(),
        schema_version: 0,
        first_pending: Seq(4),
    }
}

fn welcome(version: u16) -> ServerFrame {
    ServerFrame::Welcome {
        version,
        server_time: Millis(0),
        drift_max_ms: 0,
        merged_through: Seq(3),
        horizon: Hlc::ZERO,
        credit_transactions: 10,
        schema: None,
    }
}

#[test]
fn the_replicas_end_grants_credit_as_it_applies_and_refuses_a_flood() {
    let mut session = ClientSession::default();
    assert!(session.poll_connect(Millis(0)));
    session.connected(greeting());
    let frame = ServerFrame::Transaction {
        cursor: Default::default(),
        live: Default::default(),
        accepted: vec![],
        changes: vec![],
        more: false,
    };
    assert_eq!(session.receive(&frame), Err(Violation::OutOfOrder));
    session.receive(&welcome(1)).unwrap();
    assert_eq!(session.push_window(), Some((Seq(3), 10)));
    let mut granted = 0;
    for _ in 0..DOWN_CREDIT_FRAMES * 3 {
        session.receive(&frame).unwrap();
        if let Some(ClientFrame::Credit(more)) = session.applied() {
            granted += more;
        }
    }
    assert!(granted >= DOWN_CREDIT_FRAMES * 2);
    let flood = (0..=DOWN_CREDIT_FRAMES).map(|_| session.receive(&frame));
    assert_eq!(flood.last(), Some(Err(Violation::CreditExceeded)));
}

fn policy(attempts_max: Option<u32>) -> RetryPolicy {
    RetryPolicy {
        base_ms: 100,
        ceiling_ms: 1_000,
        attempts_max,
    }
}

/// Connects at the time that the session waits for; when that was.
fn connect_when_due(session: &mut ClientSession) -> Millis {
    let due = session.poll_timeout().unwrap();
    assert!(session.poll_connect(due));
    due
}

#[test]
fn tries_end_where_the_policy_says_so_and_begin_anew_when_asked() {
    let mut session = ClientSession::new(policy(Some(3)));
    for round in 0..2 {
        for _ in 0..3 {
            let now = connect_when_due(&mut session);
            session.disconnected(now, u64::MAX / 2, "nobody is there");
        }
        let ClientPhase::Stopped { cause, reason } = session.phase() else {
            panic!("round {round}: {:?}", session.phase());
        };
        assert_eq!(*cause, Stopped::GaveUp);
        assert!(
            reason.contains("nobody is there") && reason.contains("3 tries"),
            "{reason}"
        );
        session.retry_now(Millis(0));
    }
    // A welcome ends the row.
    for _ in 0..10 {
        let now = connect_when_due(&mut session);
        session.connected(greeting());
        session.receive(&welcome(1)).unwrap();
        session.disconnected(now, 0, "closed");
    }
    let endless = &mut ClientSession::new(policy(None));
    for _ in 0..1_000 {
        let now = connect_when_due(endless);
        endless.disconnected(now, u64::MAX, "nobody is there");
        assert!(
            endless
                .poll_timeout()
                .is_some_and(|until| until.0 <= now.0 + 1_000)
        );
    }
}

#[test]
fn a_session_that_breaks_again_and_again_is_left_alone_until_it_is_mended() {
    let mut session = ClientSession::new(policy(None));
    let breaks = |session: &mut ClientSession, mended: bool| {
        let now = connect_when_due(session);
        session.connected(greeting());
        session.receive(&welcome(1)).unwrap();
        if mended {
            session.mended();
        }
        session.broke(now, 7_000, "the disk is full");
    };
    for round in 0..3 * BROKEN_SESSIONS_MAX {
        breaks(&mut session, round % 3 == 0);
        assert!(session.poll_timeout().is_some(), "{round}");
    }
    session.retry_now(Millis(0));
    for _ in 0..BROKEN_SESSIONS_MAX {
        breaks(&mut session, false);
    }
    assert!(matches!(
        session.phase(),
        ClientPhase::Stopped {
            cause: Stopped::GaveUp,
            ..
        }
    ));
    session.retry_now(Millis(5));
    assert!(session.poll_connect(Millis(5)));
}

#[test]
fn a_refusal_that_waiting_will_not_cure_stops_the_session_until_asked() {
    let mut session = ClientSession::default();
    session.poll_connect(Millis(0));
    session.connected(greeting());
    let refused = ServerFrame::Refused {
        code: RefusalCode::Unauthenticated,
        message: "no such token".to_owned(),
    };
    session.receive(&refused).unwrap();
    session.disconnected(Millis(0), 0, "closed");
    assert!(matches!(session.phase(), ClientPhase::Stopped { .. }));
    assert!(!session.poll_connect(Millis(u64::MAX)));
    session.retry_now(Millis(5));
    assert!(session.poll_connect(Millis(5)));

    session.connected(greeting());
    assert_eq!(session.receive(&welcome(9)), Err(Violation::Version(9)));
    session.disconnected(Millis(5), u64::MAX, "closed");
    assert!(
        session
            .poll_timeout()
            .is_some_and(|until| until > Millis(5))
    );
}
