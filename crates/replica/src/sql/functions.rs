//! SQL functions for an application's own statements: identifiers, clock readings, places in ordered
//! lists. The engine itself needs none of them, so that programs without them write as well.

use std::sync::{Mutex, PoisonError};

use anabranch_crdt::{Hlc, HlcClock, Millis};
use rusqlite::{Connection, Error, functions::FunctionFlags};
use uuid::{Builder, Uuid};

use crate::{
    options::{system_random, system_time},
    order_between,
};

/// Gives a connection the SQL functions that the engine's own connections have.
///
/// | function | gives |
/// |---|---|
/// | `uuid_v7()` | a new identifier, greater than those made before on this connection |
/// | `hlc_now()` | a reading of the hybrid clock by this machine's time, as an integer |
/// | `hlc_millis(hlc)` | the Unix milliseconds of a reading |
/// | `order_between(after, before)` | a key between two of an ordered list ([`order_between`]) |
///
/// ```
/// use anabranch_replica::register_functions;
///
/// let conn = rusqlite::Connection::open_in_memory()?;
/// register_functions(&conn)?;
/// conn.execute_batch("
///     CREATE TABLE item(id TEXT PRIMARY KEY, position TEXT);
///     INSERT INTO item SELECT uuid_v7(), order_between(max(position), NULL) FROM item;
///     INSERT INTO item SELECT uuid_v7(), order_between(max(position), NULL) FROM item;
/// ")?;
/// let sql = "SELECT count(*) FROM item WHERE hlc_millis(hlc_now()) > 0";
/// assert_eq!(conn.query_row(sql, [], |row| row.get::<_, i64>(0))?, 2);
/// # Ok::<(), rusqlite::Error>(())
/// ```
pub fn register_functions(conn: &Connection) -> Result<(), Error> {
    register(conn, system_time, system_random)
}

/// The same, with time and randomness from elsewhere.
pub(crate) fn register(
    conn: &Connection,
    now: impl Fn() -> Millis + Clone + Send + 'static,
    random: impl Fn() -> u64 + Clone + Send + 'static,
) -> Result<(), Error> {
    // They may stand in views and triggers, which SQLite may be told not to trust.
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
    let fixed = flags | FunctionFlags::SQLITE_DETERMINISTIC;

    let (time, draw) = (now.clone(), random.clone());
    let uuids = Mutex::new(Uuids::default());
    conn.create_scalar_function("uuid_v7", 0, flags, move |_| {
        let random = u128::from(draw()) << 64 | u128::from(draw());
        let mut uuids = uuids.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(uuids.next(time(), random).to_string())
    })?;

    let clock = Mutex::new(HlcClock::default());
    conn.create_scalar_function("hlc_now", 0, flags, move |_| {
        let mut clock = clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.tick(now()).map(Hlc::to_i64).map_err(failed)
    })?;

    conn.create_scalar_function("hlc_millis", 1, fixed, |arguments| {
        let Some(stored) = arguments.get::<Option<i64>>(0)? else {
            return Ok(None);
        };
        let reading = Hlc::from_i64(stored).map_err(failed)?;
        Ok(i64::try_from(reading.millis().0).ok())
    })?;

    conn.create_scalar_function("order_between", 2, flags, move |arguments| {
        let (after, before): (Option<String>, Option<String>) =
            (arguments.get(0)?, arguments.get(1)?);
        order_between(after.as_deref(), before.as_deref(), random()).map_err(failed)
    })
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::UserFunctionError(error.into())
}

/// Identifiers in the order they are made, after RFC 9562, "Monotonic Random": within a millisecond
/// the random part counts on.
#[derive(Debug, Default)]
struct Uuids {
    last: Millis,
    /// The random part of the last one; its upper bit is drawn 0, so that counting has room.
    random: u128,
}

impl Uuids {
    fn next(&mut self, now: Millis, random: u128) -> Uuid {
        if now > self.last {
            self.last = now;
            self.random = random & (RANDOM_MASK >> 1);
        } else {
            let step = random & STEP_MASK;
            self.random = (self.random + 1 + step) & RANDOM_MASK;
        }
        // 12 bits above the variant, 62 below; the version and the variant overwrite what is there.
        let (high, low) = (self.random >> 62, self.random & (RANDOM_MASK >> 12));
        let time = u128::from(self.last.0 & TIME_MASK);
        let value = time << 80 | high << 64 | low;
        Builder::from_u128(value)
            .with_version(uuid::Version::SortRand)
            .with_variant(uuid::Variant::RFC4122)
            .into_uuid()
    }
}

const TIME_MASK: u64 = (1 << 48) - 1;
const RANDOM_MASK: u128 = (1 << 74) - 1;
/// How far the random part counts on at most: so that the next one cannot be guessed.
const STEP_MASK: u128 = (1 << 32) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_ascend_though_the_clock_stands_still_or_goes_back() {
        let mut uuids = Uuids::default();
        let mut last = Uuid::nil();
        for (ms, random) in [
            (5, u128::MAX),
            (5, u128::MAX),
            (4, 0),
            (5, 7),
            (6, 0),
            (6, 0),
        ] {
            let next = uuids.next(Millis(ms), random);
            assert!(last < next, "{last} {next}");
            assert_eq!(next.get_version(), Some(uuid::Version::SortRand));
            assert_eq!(next.get_variant(), uuid::Variant::RFC4122);
            last = next;
        }
        assert_eq!(last.to_string().split_at(13).0, "00000000-0006");
    }
}
