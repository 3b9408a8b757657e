//! The process that faults befall: it writes, merges and is told of acceptances for as long as it
//! lives, and keeps a log of its own, flushed to the disk, of what it is about to commit and of what
//! it has committed. It is this test binary, run again.

use std::{
    env,
    fs::{File, OpenOptions as FileOptions},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anabranch_crdt::{Hlc, Millis, ReplicaId, RowKey, RowState, Stamp, Value};
use anabranch_protocol::{Change, Seq, SubscriptionId, SubscriptionSet};
use anabranch_replica::{OpenOptions, Replica, TransactionError};
use rusqlite::Connection;

use crate::common::{DONE, KEYED, NUMBERED, START, TITLE, cursor, schema, shape};

const FILE: &str = "ANABRANCH_TEST_WORKER_FILE";

/// Rows of one transaction, of the worker and of the service alike.
pub const ROWS: u64 = 3;

/// Where the worker on `file` keeps its log.
pub fn log_of(file: &Path) -> PathBuf {
    file.with_extension("log")
}

/// This binary as a worker on `file`, with what must come before it on the command line.
pub fn command(file: &Path, before: &[&str]) -> Command {
    let this = env::current_exe().unwrap().display().to_string();
    let words = [before, &[&this, "--exact", "worker::works_until_it_ends"]].concat();
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .env(FILE, file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Makes the file, with a subscription whose first snapshot is complete.
pub fn prepare(file: &Path) {
    let mut replica = Replica::open(file, OpenOptions::system()).unwrap();
    replica.adopt_schema(schema()).unwrap();
    let id = replica.subscribe(&shape("everything")).unwrap();
    replica.finish_snapshot(id, cursor(0)).unwrap();
}

#[test]
fn works_until_it_ends() {
    // Nothing to do where this is not a worker.
    if let Some(file) = env::var_os(FILE) {
        Worker::new(Path::new(&file)).work();
    }
}

struct Worker {
    replica: Replica,
    foreign: Connection,
    log: File,
    subscription: SubscriptionId,
    /// The last transaction of the service that is merged.
    position: u64,
    /// The next transaction of the worker's.
    number: u64,
}

impl Worker {
    fn new(file: &Path) -> Self {
        let replica = Replica::open(file, OpenOptions::system()).unwrap();
        let subscription = replica.subscriptions().unwrap().remove(0);
        let log = log_of(file);
        let begun = std::fs::read_to_string(&log).unwrap_or_default();
        let begun = begun
            .lines()
            .filter(|line| line.starts_with("begun "))
            .count();
        Self {
            replica,
            foreign: Connection::open(file).unwrap(),
            log: FileOptions::new()
                .append(true)
                .create(true)
                .open(log)
                .unwrap(),
            subscription: subscription.id,
            position: subscription.cursor.unwrap().position.0,
            number: begun as u64,
        }
    }

    fn say(&mut self, line: &str) {
        // In one write, so that a line is there or is not.
        self.log.write_all(format!("{line}\n").as_bytes()).unwrap();
        self.log.sync_data().unwrap();
    }

    /// Until it is killed, or something fails: then that is the last line of the log.
    fn work(&mut self) {
        loop {
            let done = match self.number % 4 {
                0 | 1 => self.write(),
                2 => self.write_as_another_program(),
                _ => self.change_its_mind(),
            };
            let done = done
                .and_then(|()| self.merge())
                .and_then(|()| self.hear_acceptance());
            if let Err(error) = done {
                self.say(&format!("failed {error}"));
                return;
            }
        }
    }

    fn change_its_mind(&mut self) -> Result<(), String> {
        self.say(&format!("begun {}", self.number));
        let sql = statements(self.number);
        self.number += 1;
        let rolled_back = self.replica.transaction(|tx| {
            tx.execute_batch(&sql).map_err(Some)?;
            Err::<(), Option<rusqlite::Error>>(None)
        });
        match rolled_back {
            Err(TransactionError::Work(None)) => Ok(()),
            Err(TransactionError::Work(Some(error))) => Err(error.to_string()),
            Err(error) => Err(format!("{error:?}")),
            Ok(_) => Err("what was rolled back was committed".to_owned()),
        }
    }

    fn write(&mut self) -> Result<(), String> {
        self.say(&format!("begun {}", self.number));
        let sql = statements(self.number);
        let written = self.replica.transaction(|tx| tx.execute_batch(&sql));
        written.map_err(|error| error.to_string())?;
        self.say(&format!("done {}", self.number));
        self.number += 1;
        Ok(())
    }

    fn write_as_another_program(&mut self) -> Result<(), String> {
        self.say(&format!("begun {}", self.number));
        let sql = format!("BEGIN IMMEDIATE; {} COMMIT", statements(self.number));
        let written = self.foreign.execute_batch(&sql);
        written.map_err(|error| error.to_string())?;
        self.say(&format!("done {}", self.number));
        self.number += 1;
        Ok(())
    }

    fn merge(&mut self) -> Result<(), String> {
        let position = self.position + 1;
        let live = SubscriptionSet::only(self.subscription);
        let merged = self.replica.merge_transaction(
            cursor(position),
            live,
            Vec::new(),
            told(position, live),
        );
        merged.map_err(|error| error.to_string())?;
        self.say(&format!("merged {position}"));
        self.position = position;
        Ok(())
    }

    /// The service answers the oldest transaction, but for the last few.
    fn hear_acceptance(&mut self) -> Result<(), String> {
        let pending = self
            .replica
            .pending(Seq(0), usize::MAX)
            .map_err(|error| error.to_string())?;
        if pending.len() < 8 {
            return Ok(());
        }
        let position = self.position;
        let live = SubscriptionSet::only(self.subscription);
        let oldest = &pending[0];
        let changes = oldest.deltas.iter().map(|delta| Change {
            table: delta.table,
            key: delta.key.clone(),
            shapes: live,
            state: delta.state.clone(),
        });
        let changes = changes.collect();
        self.replica
            .merge_transaction(cursor(position), live, vec![oldest.seq], changes)
            .map_err(|error| error.to_string())
    }
}

/// What the worker's transaction numbered `number` does: new rows, one row that every transaction
/// writes, and a row that comes and goes.
pub fn statements(number: u64) -> String {
    let rows = (0..ROWS).map(|row| format!("('mine', {}, '{number}', '0.5')", number * ROWS + row));
    let rows = rows.collect::<Vec<_>>().join(", ");
    let toggle = if number.is_multiple_of(2) {
        "INSERT OR REPLACE INTO numbered VALUES (0, 'there');"
    } else {
        "DELETE FROM numbered WHERE id = 0;"
    };
    format!(
        "INSERT INTO keyed(tenant, number, note, amount) VALUES {rows};
         INSERT INTO numbered VALUES (-1, '{number}')
         ON CONFLICT(id) DO UPDATE SET note = excluded.note; {toggle}"
    )
}

/// What the service's transaction at `position` does: new rows, and one that they all write.
pub fn told(position: u64, shapes: SubscriptionSet) -> Vec<Change> {
    let at = Hlc::new(Millis(START + position), 0).unwrap();
    let stamp = Stamp::new(at, ReplicaId([9; 16]));
    let integer = |number: u64| Value::Integer(i64::try_from(number).unwrap());
    let change = |table, key, column, value| {
        let mut state = RowState::live(stamp);
        state.set(column, stamp, value);
        Change {
            table,
            key,
            shapes,
            state,
        }
    };
    let note = Value::Text(position.to_string());
    let rows = (0..ROWS).map(|row| {
        let key = RowKey(vec![Value::text("theirs"), integer(position * ROWS + row)]);
        change(KEYED, key, DONE, note.clone())
    });
    let shared = RowKey(vec![integer(1)]);
    rows.chain([change(NUMBERED, shared, TITLE, note.clone())])
        .collect()
}
