//! The outbox as bytes: to keep unsent work when a file must go, and to bring it into another.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use anabranch_crdt::{ColumnState, Delta, Stamp};
use anabranch_protocol::{
    LocalTransaction, Seq,
    codec::{decode_transaction, encode_transaction},
};
use rusqlite::Connection;

use crate::{
    Event, Origin, Replica, ReplicaError,
    account::identity::state_by,
    incoming::verdict::restamped_state,
    outbox,
    tables::key::pack,
    turn::{Bounds, Turn},
};

/// What an exported outbox begins with: the kind and its version.
const MAGIC: &[u8] = b"anabranch outbox 1\n";

impl Replica {
    /// Everything that waits for the service, as bytes for [`Replica::import_outbox`] of another
    /// replica of the same store. It stays in this one.
    pub fn export_outbox(&mut self) -> Result<Vec<u8>, ReplicaError> {
        self.turn(|turn| {
            turn.seal(Bounds::Waived)?;
            exported(turn.tx)
        })
    }

    /// The same, into a new file at `path`, flushed to the disk; how many transactions there were.
    pub fn export_outbox_to(&mut self, path: impl AsRef<Path>) -> Result<u64, ReplicaError> {
        let exported = self.export_outbox()?;
        write_new(path.as_ref(), &exported)?;
        Ok(count_in(&exported))
    }

    /// Takes in what another replica had not sent, as writes of this one, all or nothing: each
    /// transaction under a number of its own. The readings of the clock stay, so that what is newer
    /// here or in the store stays; but for transactions that add to a counter, which are of now. Returns how many transactions there were.
    ///
    /// The schema must be there already. Import once: a second time sends everything again, which
    /// is harmless but for rows that somebody has deleted meanwhile.
    pub fn import_outbox(&mut self, exported: &[u8]) -> Result<u64, ReplicaError> {
        let transactions = read(exported)?;
        let count = u64::try_from(transactions.len()).unwrap_or(u64::MAX);
        let transactions_max = self.outbox_transactions_max();
        let theirs: HashSet<Stamp> = transactions.iter().map(|waits| waits.stamp).collect();
        self.turn(|turn| {
            turn.seal(Bounds::Waived)?;
            for transaction in transactions {
                turn.import(transaction, &theirs, transactions_max)?;
            }
            Ok(count)
        })
    }
}

impl Turn<'_> {
    fn import(
        &mut self,
        mut transaction: LocalTransaction,
        theirs: &HashSet<Stamp>,
        transactions_max: u64,
    ) -> Result<(), ReplicaError> {
        self.numbers.hlc = self.numbers.hlc.max(transaction.stamp.hlc);
        let old = Stamp::new(transaction.stamp.hlc, self.replica);
        transaction.stamp = old;
        for delta in &mut transaction.deltas {
            delta.state = state_by(&delta.state, theirs, self.replica);
        }
        if transaction.deltas.iter().any(adds_to_a_counter) {
            // The store takes what lies before this replica's last total for counted already.
            transaction.stamp = self.stamp()?;
            let stamps = HashMap::from([(old, transaction.stamp)]);
            for delta in &mut transaction.deltas {
                delta.state = restamped_state(&delta.state, &stamps);
            }
        }
        self.show(&transaction.deltas, false)?;
        let pending = self.waiting();
        transaction.seq = self.next_seq();
        transaction.replaces = 0;
        outbox::append(self.tx, &transaction, None, pending, transactions_max)?;
        let packed = transaction.deltas.iter().map(|delta| pack(&delta.key));
        let packed = packed.collect();
        self.pending.appended(&transaction, packed, &self.numbers);
        self.events.push(Event::Sealed(transaction.seq));
        Ok(())
    }

    /// Merges deltas of the outbox into the tables: under what is pending, or with `emptied` into
    /// rows that were let go of, where nothing shows what is pending.
    pub(crate) fn show(&mut self, deltas: &[Delta], emptied: bool) -> Result<(), ReplicaError> {
        let mut changes = Vec::new();
        for delta in deltas {
            let table = self.tables.get(delta.table);
            let number = || ReplicaError::NoTable(format!("number {}", delta.table.0));
            let table = table.ok_or_else(number)?;
            self.keep_unknown(table, &delta.key, &pack(&delta.key), &delta.state)?;
            let merged = if emptied {
                table.merge(self.tx, &delta.key, &delta.state, |held| held)?
            } else {
                self.merge_row(table, &delta.key, &delta.state)?
            };
            changes.extend(merged.into_change(table.id(), delta.key.clone()));
        }
        self.events.extend(Event::rows(Origin::Local, changes));
        Ok(())
    }
}

fn adds_to_a_counter(delta: &Delta) -> bool {
    let mut columns = delta.state.clock().columns().iter();
    columns.any(|(_, state)| matches!(state, ColumnState::Counter(_)))
}

/// Everything that waits, as bytes.
pub(crate) fn exported(conn: &Connection) -> Result<Vec<u8>, ReplicaError> {
    let mut count = 0_u64;
    let mut transactions = Vec::new();
    outbox::each_after(conn, Seq(0), |transaction, _| {
        let payload = encode_transaction(&transaction)?;
        let bytes = payload.len();
        let length = u32::try_from(bytes).map_err(|_| ReplicaError::TooLarge { bytes })?;
        transactions.extend_from_slice(&length.to_be_bytes());
        transactions.extend_from_slice(&payload);
        count += 1;
        Ok(true)
    })?;
    Ok([MAGIC, &count.to_be_bytes(), &transactions].concat())
}

/// Writes a file that is not there yet, wholly or not at all.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<(), ReplicaError> {
    let unwritable = |source: io::Error| ReplicaError::Unwritable {
        path: path.display().to_string(),
        source,
    };
    let mut file = File::create_new(path).map_err(unwritable)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    let written = written.and_then(|()| sync_folder(path));
    if written.is_err() {
        // What the disk had no room for is of no use.
        let _ = fs::remove_file(path);
    }
    written.map_err(unwritable)
}

/// Flushes the folder that a new file is in: the file's name is lost with the power otherwise.
#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

/// Flushes the folder that a new file is in, which this system does by itself.
#[cfg(not(unix))]
const fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// How many transactions an export says it has.
fn count_in(exported: &[u8]) -> u64 {
    let rest = exported.strip_prefix(MAGIC);
    let count = rest.and_then(|rest| rest.first_chunk());
    count.map_or(0, |count| u64::from_be_bytes(*count))
}

fn read(exported: &[u8]) -> Result<Vec<LocalTransaction>, ReplicaError> {
    let rest = exported.strip_prefix(MAGIC).ok_or(ReplicaError::NoOutbox)?;
    let (count, mut rest) = rest.split_first_chunk().ok_or(ReplicaError::NoOutbox)?;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (length, more) = rest.split_first_chunk().ok_or(ReplicaError::NoOutbox)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (payload, more) = more
            .split_at_checked(length)
            .ok_or(ReplicaError::NoOutbox)?;
        out.push(decode_transaction(payload)?);
        rest = more;
    }
    // One that breaks off between two transactions looks whole otherwise.
    if u64::try_from(out.len()) == Ok(u64::from_be_bytes(*count)) {
        Ok(out)
    } else {
        Err(ReplicaError::NoOutbox)
    }
}
