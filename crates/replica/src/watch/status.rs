//! How a replica is doing, for user interfaces. Whether it is connected is its driver's to say.

use anabranch_crdt::Millis;

use crate::SubscriptionStatus;

/// How a replica is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The version of the schema it holds, 0 for none.
    pub schema_version: u64,
    /// Local transactions that wait for an outcome.
    pub pending: u64,
    /// Local transactions that the store refused.
    pub rejected: u64,
    /// When the service last told anything.
    pub last_synced: Option<Millis>,
    /// The service's clock minus this machine's.
    pub clock_offset_ms: i64,
    /// The subscriptions, with their progress.
    pub subscriptions: Vec<SubscriptionStatus>,
}
