//! The service's end of one session: order, credit and limits. What the frames mean for shapes and
//! the store is the service's concern.

use anabranch_crdt::{Hlc, Millis, ReplicaId};
use anabranch_shape::schema::Schema;

use crate::{
    ClientFrame, LocalTransaction, RefusalCode, Seq, ServerFrame, ShapeRequest, Subscription,
    SubscriptionId, SubscriptionSet,
    limits::{
        PROTOCOL_VERSIONS, SUBSCRIPTIONS_MAX, TOKEN_BYTES_MAX, UP_CREDIT_TRANSACTIONS,
        WHERE_BYTES_MAX,
    },
};

/// What a frame of the replica asks of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// To be told who is there, and to answer with [`ServerSession::welcome`].
    Greet {
        /// The replica.
        replica: ReplicaId,
        /// Its proof of who it acts for.
        token: String,
        /// The version of the schema it holds.
        schema_version: u64,
        /// The oldest transaction it has no outcome for.
        first_pending: Seq,
    },
    /// To serve these shapes.
    Subscribe(Vec<Subscription>),
    /// To stop serving one.
    Unsubscribe(SubscriptionId),
    /// To merge these.
    Merge(Vec<LocalTransaction>),
    /// To go on sending.
    Resume,
}

/// Why the session must end: the text for the last frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why, for programs.
    pub code: RefusalCode,
    /// Why, for people, and what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The frame that tells the replica.
    pub fn into_frame(self) -> ServerFrame {
        ServerFrame::Refused {
            code: self.code,
            message: self.message,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    AwaitingHello,
    AwaitingGreeting,
    Open,
}

/// The service's end of one session.
#[derive(Clone, Debug)]
pub struct ServerSession {
    phase: Phase,
    version: u16,
    replica: Option<ReplicaId>,
    /// What the replica may still push.
    up_credit: u32,
    /// What the service may still send.
    down_credit: u32,
    next_push: Seq,
    subscribed: SubscriptionSet,
}

impl Default for ServerSession {
    fn default() -> Self {
        Self {
            phase: Phase::AwaitingHello,
            version: PROTOCOL_VERSIONS.1,
            replica: None,
            up_credit: 0,
            down_credit: 0,
            next_push: Seq(0),
            subscribed: SubscriptionSet::EMPTY,
        }
    }
}

impl ServerSession {
    /// Takes a frame of the replica; an error ends the session.
    pub fn receive(&mut self, frame: ClientFrame) -> Result<Request, Refusal> {
        match (self.phase, frame) {
            (
                Phase::AwaitingHello,
                ClientFrame::Hello {
                    versions,
                    replica,
                    token,
                    schema_version,
                    first_pending,
                    credit_frames,
                },
            ) => {
                self.version = common_version(versions)?;
                if token.len() > TOKEN_BYTES_MAX {
                    return Err(Refusal::new(RefusalCode::TooMuch, "the token is too long"));
                }
                if replica == ReplicaId::SERVER || first_pending == Seq(0) {
                    return Err(out_of_order("a hello that names no possible replica"));
                }
                self.replica = Some(replica);
                self.down_credit = credit_frames;
                self.next_push = first_pending;
                self.phase = Phase::AwaitingGreeting;
                Ok(Request::Greet {
                    replica,
                    token,
                    schema_version,
                    first_pending,
                })
            }
            (Phase::Open, ClientFrame::Subscribe(subscriptions)) => self.subscribe(subscriptions),
            (Phase::Open, ClientFrame::Unsubscribe(id)) => {
                self.subscribed = self.subscribed.without(id);
                Ok(Request::Unsubscribe(id))
            }
            (Phase::Open, ClientFrame::Push(transactions)) => self.push(transactions),
            (Phase::Open, ClientFrame::Credit(frames)) => {
                self.down_credit = self.down_credit.saturating_add(frames);
                Ok(Request::Resume)
            }
            (Phase::AwaitingHello, _) => Err(out_of_order("a first frame that is not a hello")),
            (_, ClientFrame::Hello { .. }) => Err(out_of_order("a second hello")),
            (Phase::AwaitingGreeting, _) => Err(out_of_order("a frame before the welcome")),
        }
    }

    fn subscribe(&mut self, subscriptions: Vec<Subscription>) -> Result<Request, Refusal> {
        if subscriptions.len() > usize::from(SUBSCRIPTIONS_MAX) {
            return Err(Refusal::new(
                RefusalCode::TooMuch,
                "too many subscriptions in a frame",
            ));
        }
        for subscription in &subscriptions {
            if self.subscribed.contains(subscription.id) {
                return Err(out_of_order("a subscription under a number in use"));
            }
            if let ShapeRequest::Spelled {
                filter: Some(filter),
                ..
            } = &subscription.shape
                && filter.len() > WHERE_BYTES_MAX
            {
                let message = format!("a shape's condition is longer than {WHERE_BYTES_MAX} bytes");
                return Err(Refusal::new(RefusalCode::TooMuch, message));
            }
            self.subscribed = self.subscribed.with(subscription.id);
        }
        Ok(Request::Subscribe(subscriptions))
    }

    fn push(&mut self, transactions: Vec<LocalTransaction>) -> Result<Request, Refusal> {
        let count = u32::try_from(transactions.len()).unwrap_or(u32::MAX);
        let Some(credit_left) = self.up_credit.checked_sub(count) else {
            return Err(Refusal::new(
                RefusalCode::TooMuch,
                "more transactions than the credit",
            ));
        };
        for transaction in &transactions {
            if transaction.first() < self.next_push {
                let message = format!(
                    "transaction {} after {} was due: a replica's transactions come in order",
                    transaction.first().0,
                    self.next_push.0
                );
                return Err(Refusal::new(RefusalCode::Protocol, message));
            }
            if Some(transaction.stamp.replica) != self.replica {
                return Err(out_of_order("a transaction of another replica"));
            }
            // A number may be missing: that of a transaction refused in an earlier session.
            self.next_push = transaction.seq.next();
        }
        self.up_credit = credit_left;
        Ok(Request::Merge(transactions))
    }

    /// The answer to the hello, once the service knows how the replica stands with the store: its last
    /// transaction with an outcome, and what the store no longer remembers removals before.
    pub fn welcome(
        &mut self,
        standing: (Seq, Hlc),
        server_time: Millis,
        drift_max_ms: u64,
        schema: Option<Schema>,
    ) -> ServerFrame {
        let (merged_through, horizon) = standing;
        self.phase = Phase::Open;
        self.up_credit = UP_CREDIT_TRANSACTIONS;
        ServerFrame::Welcome {
            version: self.version,
            server_time,
            drift_max_ms,
            merged_through,
            horizon,
            credit_transactions: self.up_credit,
            schema,
        }
    }

    /// The replica at the other end, once it has said hello.
    pub const fn replica(&self) -> Option<ReplicaId> {
        self.replica
    }

    /// Whether the replica has been welcomed.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether a snapshot or transaction frame may be sent; call [`Self::spend`] when it is.
    pub fn may_send(&self) -> bool {
        self.phase == Phase::Open && self.down_credit > 0
    }

    /// Notes that a snapshot or transaction frame was sent.
    pub const fn spend(&mut self) {
        self.down_credit = self.down_credit.saturating_sub(1);
    }

    /// Notes that pushed transactions have their outcomes, and grants as many more.
    pub fn settled(&mut self, count: usize) -> ServerFrame {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.up_credit = self.up_credit.saturating_add(count);
        ServerFrame::Credit(count)
    }

    /// Notes that a subscription was refused, so that its number is free again.
    pub const fn released(&mut self, id: SubscriptionId) {
        self.subscribed = self.subscribed.without(id);
    }
}

fn common_version((oldest, newest): (u16, u16)) -> Result<u16, Refusal> {
    let version = newest.min(PROTOCOL_VERSIONS.1);
    if version >= oldest && version >= PROTOCOL_VERSIONS.0 {
        return Ok(version);
    }
    let (own_oldest, own_newest) = PROTOCOL_VERSIONS;
    Err(Refusal::new(
        RefusalCode::Version,
        format!(
            "the replica speaks protocol versions {oldest} to {newest}, this service \
             {own_oldest} to {own_newest}; upgrade the older of the two"
        ),
    ))
}

fn out_of_order(what: &str) -> Refusal {
    Refusal::new(RefusalCode::Protocol, format!("{what} has no place here"))
}
