//! Every bound on what a peer can make the other end hold, each with its reason.

/// The protocol versions this build speaks, oldest and newest.
pub const PROTOCOL_VERSIONS: (u16, u16) = (1, 1);

/// Bytes of one fragment on the wire: small enough that a slow link interleaves pings, and below
/// what WebSocket intermediaries commonly accept.
pub const FRAGMENT_BYTES_MAX: usize = 256 * 1024;

/// Bytes of one frame after assembly and inflation. A transaction is one frame, so this also bounds
/// a transaction; it is twice the largest bulk edit seen in the design's example workspaces.
pub const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes that decoding one frame may claim in memory: small values are larger in memory than on the
/// wire, about four times in frames of numbers.
pub const DECODED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Bytes of a frame before the peer has been welcomed: a hello needs a token and a few numbers.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;

/// Frames at least this long are compressed: below it the saving does not pay for the call.
pub const COMPRESS_BYTES_MIN: usize = 1024;

/// Subscriptions of one replica: one bit each in a signed 64-bit column beside every row.
pub const SUBSCRIPTIONS_MAX: u8 = 63;

/// Frames the service may send before the replica has granted more. At most this many times
/// [`FRAGMENT_BYTES_MAX`] of snapshot lie in flight towards one replica.
pub const DOWN_CREDIT_FRAMES: u32 = 16;

/// Transactions a replica may send before the service has granted more.
pub const UP_CREDIT_TRANSACTIONS: u32 = 256;

/// Bytes of pushed transactions gathered into one frame: large enough to amortise the frame, small
/// enough that the service's answer comes soon.
pub const PUSH_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a shape's `where` clause as text: far above what people write by hand.
pub const WHERE_BYTES_MAX: usize = anabranch_shape::limits::FILTER_BYTES_MAX;

/// Bytes of a token presented in a hello.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// How far ahead of the service's clock a stamp may be, unless configured otherwise: five minutes
/// forgive an ordinary wrong clock, and bound how long a wrong one can win every merge.
pub const DRIFT_MAX_MS: u64 = 5 * 60 * 1000;

/// Elements of one set, those removed included: a row's clock holds them all and is read and written
/// whole, so what has more is better kept as rows.
pub const SET_ELEMENTS_MAX: usize = 4096;

/// Bytes of a set's elements together, for the same reason.
pub const SET_BYTES_MAX: usize = 256 * 1024;

/// The first wait before connecting again is drawn from zero to this; the bound then doubles.
pub const RETRY_BASE_MS: u64 = 250;

/// No wait before connecting again is longer: half a minute keeps a recovered service in reach.
pub const RETRY_CEILING_MS: u64 = 30_000;

/// Sessions in a row that break on the replica's side, such as for a disk that is full, before it stops
/// trying by itself: the waits in between add up to a quarter of a minute, in which a passing trouble
/// passes, and what does not pass wants somebody to look.
pub const BROKEN_SESSIONS_MAX: u32 = 8;
