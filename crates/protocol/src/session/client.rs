//! The replica's end of a session: connecting, waiting, and how much may be under way. What the
//! frames do to the replica is its driver's concern.

use anabranch_crdt::{Millis, ReplicaId};
use thiserror::Error;

use super::{Backoff, RetryPolicy};
use crate::{
    ClientFrame, RefusalCode, Seq, ServerFrame,
    limits::{
        BROKEN_SESSIONS_MAX, DOWN_CREDIT_FRAMES, PROTOCOL_VERSIONS, RETRY_BASE_MS, RETRY_CEILING_MS,
    },
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
    /// No more tries. Until [`ClientSession::retry_now`].
    Stopped {
        /// Why, for programs.
        cause: Stopped,
        /// Why, for people.
        reason: String,
    },
}

/// Why a session is not tried again by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The service refused for a reason that waiting will not cure.
    Refused(RefusalCode),
    /// As many tries in a row failed as the policy allows, or sessions as
    /// [`BROKEN_SESSIONS_MAX`] does.
    GaveUp,
    /// The replica must not be sent, as when its user has signed out.
    Forbidden,
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
    /// Sessions in a row that broke, which a welcome does not cure.
    broken: Backoff,
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
            broken: Backoff::new(BREAKER),
            up_credit: 0,
            pushed_through: Seq(0),
            down_credit: 0,
            applied: 0,
        }
    }
}

impl ClientSession {
    /// A session that is tried again as `policy` says.
    pub fn new(policy: RetryPolicy) -> Self {
        Self {
            backoff: Backoff::new(policy),
            ..Self::default()
        }
    }

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
            self.stop(Stopped::Refused(code), message);
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
        let until = self.backoff.failed(now, random);
        self.wait(until, self.backoff, reason.into());
    }

    /// The session broke on this side, for a reason that the next may meet again: waits longer each
    /// time, whatever was welcomed in between, and in the end gives up.
    pub fn broke(&mut self, now: Millis, random: u64, reason: impl Into<String>) {
        let until = self.broken.failed(now, random);
        self.wait(until, self.broken, reason.into());
    }

    /// Everything that there was has been applied: what broke earlier sessions is over.
    pub const fn mended(&mut self) {
        self.broken.succeeded();
    }

    /// Does not try again by itself.
    pub fn stop(&mut self, cause: Stopped, reason: impl Into<String>) {
        let reason = reason.into();
        self.phase = ClientPhase::Stopped { cause, reason };
    }

    fn wait(&mut self, until: Millis, failed: Backoff, reason: String) {
        if matches!(self.phase, ClientPhase::Stopped { .. }) {
            return;
        }
        if failed.is_exhausted() {
            let tries = failed.failures();
            return self.stop(
                Stopped::GaveUp,
                format!("{reason} (given up after {tries} tries)"),
            );
        }
        self.phase = ClientPhase::Waiting {
            until,
            reason: Some(reason),
        };
    }

    /// Tries at once, whatever the wait or the refusal was.
    pub fn retry_now(&mut self, now: Millis) {
        if matches!(
            self.phase,
            ClientPhase::Waiting { .. } | ClientPhase::Stopped { .. }
        ) {
            self.backoff.succeeded();
            self.broken.succeeded();
            self.phase = ClientPhase::Waiting {
                until: now,
                reason: None,
            };
        }
    }
}

/// How sessions are tried again that break on this side.
const BREAKER: RetryPolicy = RetryPolicy {
    base_ms: RETRY_BASE_MS,
    ceiling_ms: RETRY_CEILING_MS,
    attempts_max: Some(BROKEN_SESSIONS_MAX),
};
