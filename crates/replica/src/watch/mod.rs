//! What an application can watch: events, changes, live queries, status. Nothing here changes rows.

pub(crate) mod changes;
pub(crate) mod elsewhere;
pub(crate) mod events;
pub(crate) mod live;
pub(crate) mod live_reads;
pub(crate) mod observe;
pub(crate) mod status;
