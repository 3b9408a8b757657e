//! A live query as a stream, on a thread of its own: SQLite has no other way to wait.

use std::{path::PathBuf, thread, time::Duration};

use anabranch_replica::{Diff, LiveQuery, LiveQueryError};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::mpsc;

/// How often the file's counters are looked at: as often as for writes of other programs.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Tells the changes of a query's result until the receiver is dropped.
pub(crate) fn follow(
    path: PathBuf,
    mut query: LiveQuery,
) -> mpsc::Receiver<Result<Diff, LiveQueryError>> {
    // One waits at most: what comes meanwhile is told together.
    let (tell, told) = mpsc::channel(1);
    thread::spawn(move || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = match Connection::open_with_flags(path, flags) {
            Ok(conn) => conn,
            Err(error) => return drop(tell.blocking_send(Err(error.into()))),
        };
        while !tell.is_closed() {
            if tell.capacity() == 0 {
                thread::sleep(LOOK_INTERVAL);
                continue;
            }
            match query.refresh(&conn) {
                Ok(None) => thread::sleep(LOOK_INTERVAL),
                Ok(Some(diff)) => drop(tell.blocking_send(Ok(diff))),
                Err(error) => return drop(tell.blocking_send(Err(error))),
            }
        }
    });
    told
}
