//! The replica's end of a session: connecting, waiting, and how much may be under way. What the
//! frames do to the replica is its driver's concern.

use anabranch_crdt::{Millis, ReplicaId};
use thiserror::Error;

use super::Backoff;
use crate::{
    ClientFrame, RefusalCode, Seq, ServerFrame,
    limits::{DOWN_CREDIT_FRAMES, PROTOCOL_VERSIONS},
};

/// Where a session stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientPhase {
    /// Nothing is under way, and the next try is due at this time.
    Waiting {
        /// When to try.
        until: Millis,
        /// Why the last try failed; none before the first.
        reason: Option<String>,
    },
    /// A connection is being made.
    Connecting,
    /// The hello has been sent.
    Greeting,
    /// The service has welcomed the replica.
    Open,
    /// The service refused for a reason that waiting will not cure. Until
    /// [`ClientSession::retry_now`].
    Stopped {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people.
        reason: String,
    },
}

/// What a hello says of the replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The replica.
    pub replica: ReplicaId,
    /// Proof of who it acts for.
    pub token: String,
    /// The version of the schema it holds.
    pub schema_version: u64,
    /// The oldest transaction it has no outcome for.
    pub first_pending: Seq,
}

/// The service said what it may not. The connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// A frame that has no place before the welcome, or a second welcome.
    #[error("the service sent a frame out of order")]
    OutOfOrder,
    /// A version outside those offered.
    #[error("the service chose protocol version {0}, which was not offered")]
    Version(u16),
    /// More frames than were granted.
    #[error("the service sent more frames than it was granted")]
    CreditExceeded,
}

/// The replica's end of a session.
#[derive(Clone, Debug)]
pub struct ClientSession {
    phase: ClientPhase,
    backoff: Backoff,
    up_credit: u32,
    pushed_through: Seq,
    /// Frames that the service may still send.
    down_credit: u32,
    /// Frames applied since credit was last granted.
    applied: u32,
}

impl Default for ClientSession {
    fn default() -> Self {
        Self {
            phase: ClientPhase::Waiting {
                until: Millis(0),
                reason: None,
            },
            backoff: Backoff::default(),
            up_credit: 0,
            pushed_through: Seq(0),
            down_credit: 0,
            applied: 0,
        }
    }
}

impl ClientSession {
    /// Where the session stands.
    pub const fn phase(&self) -> &ClientPhase {
        &self.phase
    }

    /// Whether a connection should be made now; if so, it is taken to be under way.
    pub fn poll_connect(&mut self, now: Millis) -> bool {
        match self.phase {
            ClientPhase::Waiting { until, .. } if until <= now => {
                self.phase = ClientPhase::Connecting;
                true
            }
            _ => false,
        }
    }

    /// When [`Self::poll_connect`] is to be asked again, if ever.
    pub const fn poll_timeout(&self) -> Option<Millis> {
        match self.phase {
            ClientPhase::Waiting { until, .. } => Some(until),
            _ => None,
        }
    }

    /// The connection stands: returns the first frame.
    pub fn connected(&mut self, greeting: Greeting) -> ClientFrame {
        self.phase = ClientPhase::Greeting;
        self.down_credit = DOWN_CREDIT_FRAMES;
        self.applied = 0;
        self.up_credit = 0;
        self.pushed_through = Seq(greeting.first_pending.0.saturating_sub(1));
        ClientFrame::Hello {
            versions: PROTOCOL_VERSIONS,
            replica: greeting.replica,
            token: greeting.token,
            schema_version: greeting.schema_version,
            first_pending: greeting.first_pending,
            credit_frames: DOWN_CREDIT_FRAMES,
        }
    }

    /// Takes note of a frame before it is applied to the replica.
    pub fn receive(&mut self, frame: &ServerFrame) -> Result<(), Violation> {
        let open = self.phase == ClientPhase::Open;
        match frame {
            ServerFrame::Welcome {
                version,
                credit_transactions,
                ..
            } => {
                if self.phase != ClientPhase::Greeting {
                    return Err(Violation::OutOfOrder);
                }
                if !(PROTOCOL_VERSIONS.0..=PROTOCOL_VERSIONS.1).contains(version) {
                    return Err(Violation::Version(*version));
                }
                self.up_credit = *credit_transactions;
                self.backoff.succeeded();
                self.phase = ClientPhase::Open;
            }
            ServerFrame::Refused { code, message } => self.refused(*code, message),
            _ if !open => return Err(Violation::OutOfOrder),
            ServerFrame::Snapshot { .. }
            | ServerFrame::SnapshotEnd { .. }
            | ServerFrame::Transaction { .. } => {
                self.down_credit = self
                    .down_credit
                    .checked_sub(1)
                    .ok_or(Violation::CreditExceeded)?;
            }
            ServerFrame::Credit(transactions) => {
                self.up_credit = self.up_credit.saturating_add(*transactions);
            }
            _ => {}
        }
        Ok(())
    }

    fn refused(&mut self, code: RefusalCode, message: &str) {
        // Being busy passes by itself, and so does a clock that the next welcome corrects; anything
        // else comes back the same at every try.
        if !matches!(code, RefusalCode::Unavailable | RefusalCode::ClockAhead) {
            self.phase = ClientPhase::Stopped {
                code,
                reason: message.to_owned(),
            };
        }
    }

    /// A frame that cost credit has been applied durably: returns the credit frame when it is time
    /// to grant more.
    pub fn applied(&mut self) -> Option<ClientFrame> {
        self.applied += 1;
        if self.applied < DOWN_CREDIT_FRAMES / 2 {
            return None;
        }
        let grant = std::mem::take(&mut self.applied);
        self.down_credit += grant;
        Some(ClientFrame::Credit(grant))
    }

    /// After which transaction to push on, and how many at most; nothing while none may be pushed.
    pub fn push_window(&self) -> Option<(Seq, u32)> {
        let open = self.phase == ClientPhase::Open && self.up_credit > 0;
        open.then_some((self.pushed_through, self.up_credit))
    }

    /// Notes that `count` transactions up to `through` were sent.
    pub const fn pushed(&mut self, through: Seq, count: u32) {
        self.pushed_through = through;
        self.up_credit = self.up_credit.saturating_sub(count);
    }

    /// The connection is gone, or could not be made. `random` is a draw over all of `u64`.
    pub fn disconnected(&mut self, now: Millis, random: u64, reason: impl Into<String>) {
        if matches!(self.phase, ClientPhase::Stopped { .. }) {
            return;
        }
        let until = self.backoff.failed(now, random);
        self.phase = ClientPhase::Waiting {
            until,
            reason: Some(reason.into()),
        };
    }

    /// Tries at once, whatever the wait or the refusal was.
    pub fn retry_now(&mut self, now: Millis) {
        if matches!(
            self.phase,
            ClientPhase::Waiting { .. } | ClientPhase::Stopped { .. }
        ) {
            self.phase = ClientPhase::Waiting {
                until: now,
                reason: None,
            };
        }
    }
}
