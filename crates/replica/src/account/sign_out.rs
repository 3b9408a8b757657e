//! Signing out: a file lets go of its owner's rows, and of what it has not sent as the owner says; and
//! signing in again to what was kept.

use std::{fs, path::PathBuf};

use anabranch_crdt::{Delta, TableId};
use rusqlite::Connection;

use crate::{
    Event, Origin, Replica, ReplicaError,
    account::principal::{Fingerprint, PRINCIPAL, SIGNED_OUT},
    outbox,
    outbox::carry,
    tables::{first, layout, meta},
    turn::{Bounds, Turn},
    watch::changes,
};

/// What becomes of the transactions that have not been sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignOut {
    /// They stay in the file, which stays its owner's while there are any, or rejected ones: they
    /// are sent when the owner signs in again.
    KeepOutbox,
    /// They are written to a new file, for [`Replica::import_outbox`]; rejected ones are discarded.
    ExportOutbox(PathBuf),
    /// They are discarded, and so are rejected ones.
    Discard,
}

impl Replica {
    /// Signs the file's owner out: its rows, clocks, subscriptions and cursors go, at once or, where
    /// this fails, not at all. Returns how many unsent transactions there were. End a client of it
    /// first.
    ///
    /// What is left belongs to nobody and is a replica of its own, ready for whoever opens it next;
    /// unless unsent work was kept. The application's own tables stay.
    ///
    /// ```
    /// use anabranch_replica::{Fingerprint, OpenOptions, Principal, Replica, SignOut};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// let ann = Fingerprint::of("https://login.example.org", "ann");
    /// let path = folder.path().join(ann.file_name());
    /// let options = || OpenOptions { principal: Principal::Is(ann), ..OpenOptions::system() };
    /// let replica = Replica::open(&path, options())?;
    /// assert!(Replica::open(&path, OpenOptions::system()).is_err()); // it is hers now
    /// replica.sign_out(SignOut::KeepOutbox)?;
    /// Replica::open(&path, OpenOptions::system())?; // there was nothing to keep
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sign_out(mut self, how: SignOut) -> Result<u64, ReplicaError> {
        let new_id = self.new_id();
        let mut written = None;
        let signed_out = self.turn(|turn| {
            turn.seal(Bounds::Waived)?;
            if let SignOut::ExportOutbox(path) = &how {
                carry::write_new(path, &carry::exported(turn.tx)?)?;
                written = Some(path);
            }
            let waiting = turn.waiting();
            turn.forget_rows()?;
            if how != SignOut::KeepOutbox {
                turn.empty_outbox()?;
            }
            if has_unsent(turn.tx)? {
                meta::write(turn.tx, SIGNED_OUT, 1)?;
            } else {
                turn.tx
                    .execute("DELETE FROM anabranch_meta WHERE name = ?1", [PRINCIPAL])?;
                turn.become_another(new_id)?;
            }
            Ok(waiting)
        });
        match (&signed_out, written) {
            (Ok(_), _) => self.wipe(),
            // What was exported is still in the file.
            (Err(_), Some(path)) => drop(fs::remove_file(path)),
            (Err(_), None) => {}
        }
        signed_out
    }
}

impl Turn<'_> {
    /// Binds the file to its owner, and shows again what the owner has not sent and left behind.
    pub(crate) fn sign_in(&mut self, owner: Fingerprint) -> Result<(), ReplicaError> {
        meta::write(self.tx, PRINCIPAL, owner.bytes())?;
        if meta::number(self.tx, SIGNED_OUT)? == 0 {
            return Ok(());
        }
        for mut transaction in outbox::all_after(self.tx, anabranch_protocol::Seq(0))? {
            // Rows of tables that the store has dropped since are the store's to refuse.
            let tables = self.tables;
            let is_there = |delta: &Delta| tables.get(delta.table).is_some();
            transaction.deltas.retain(is_there);
            self.show(&transaction.deltas, true)?;
        }
        Ok(meta::write(self.tx, SIGNED_OUT, 0)?)
    }

    /// Forgets every row, and all that was for them.
    fn forget_rows(&mut self) -> Result<(), ReplicaError> {
        let mut tables: Vec<TableId> = Vec::new();
        for table in self.tables.iter() {
            table.clear(self.tx)?;
            tables.push(table.id());
        }
        self.tx.execute_batch(
            "DELETE FROM anabranch_subscription;
             DELETE FROM anabranch_staging;
             DELETE FROM anabranch_told;
             DELETE FROM anabranch_unknown;
             DELETE FROM anabranch_meta WHERE name IN ('last_synced_ms', 'sweep_due')",
        )?;
        layout::clear_dropped(self.tx)?;
        changes::count_taken_back(self.tx)?;
        let origin = Origin::Local;
        self.events.push(Event::Tables { origin, tables });
        Ok(())
    }
}

/// Whether anything of the owner's is left that no other may have.
fn has_unsent(conn: &Connection) -> Result<bool, ReplicaError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM anabranch_outbox) \
               OR EXISTS (SELECT 1 FROM anabranch_rejected)";
    Ok(first::<bool>(conn, sql)?.unwrap_or(true))
}
