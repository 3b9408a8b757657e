//! How a replica stands with its service, as a user interface shows it.

use anabranch_crdt::Millis;
use anabranch_protocol::session::{ClientPhase, Stopped};
use anabranch_replica::SubscriptionStatus;

/// Where the connection stands, for a badge or a banner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// No connection; the next try is due at this time.
    Offline {
        /// When.
        retry_at: Millis,
        /// Why the last try failed.
        reason: Option<String>,
    },
    /// A connection is being made.
    Connecting,
    /// In step, or getting there.
    Connected,
    /// The service refused; trying again is up to the application ([`Client::retry_now`]).
    ///
    /// [`Client::retry_now`]: crate::Client::retry_now
    Refused {
        /// Why, and what to do.
        reason: String,
    },
    /// Not tried again by itself either: too many tries failed in a row, or the file is not to be
    /// sent, since its user has signed out.
    Stopped {
        /// Why, and what to do.
        reason: String,
    },
}

impl ConnectionState {
    /// Why nothing happens any more until the application does something; `None` while something
    /// may.
    pub fn final_reason(&self) -> Option<&str> {
        match self {
            Self::Refused { reason } | Self::Stopped { reason } => Some(reason),
            _ => None,
        }
    }
}

impl From<&ClientPhase> for ConnectionState {
    fn from(phase: &ClientPhase) -> Self {
        match phase {
            ClientPhase::Waiting { until, reason } => Self::Offline {
                retry_at: *until,
                reason: reason.clone(),
            },
            ClientPhase::Connecting | ClientPhase::Greeting => Self::Connecting,
            ClientPhase::Open => Self::Connected,
            ClientPhase::Stopped { cause, reason } => {
                let reason = reason.clone();
                match cause {
                    Stopped::Refused(_) => Self::Refused { reason },
                    Stopped::GaveUp | Stopped::Forbidden => Self::Stopped { reason },
                }
            }
        }
    }
}

/// How the replica stands with the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where the connection stands.
    pub connection: ConnectionState,
    /// Local transactions that the service has not acknowledged.
    pub pending: u64,
    /// Local transactions that the service refused and the application has not dealt with.
    pub rejected: u64,
    /// Whether the application holds local transactions back ([`Client::pause`](crate::Client::pause)).
    pub paused: bool,
    /// Whether the service has told all it knew, of every subscription.
    pub caught_up: bool,
    /// When the service last told anything, by its clock.
    pub last_synced: Option<Millis>,
    /// The subscriptions, with their progress.
    pub subscriptions: Vec<SubscriptionStatus>,
}

impl Status {
    /// Whether everything is sent, acknowledged and received, as far as is known here.
    pub fn is_settled(&self) -> bool {
        let served = |subscription: &SubscriptionStatus| {
            let current =
                subscription.subscription.cursor.is_some() && subscription.stale_since.is_none();
            current || subscription.refused.is_some()
        };
        self.connection == ConnectionState::Connected
            && self.pending == 0
            && self.caught_up
            && self.subscriptions.iter().all(served)
    }
}
