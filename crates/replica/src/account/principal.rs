//! Whom a file belongs to. A file is bound to one principal at first use; from then on it opens for
//! nobody else, and what it has not sent goes nowhere on anybody else's behalf.
//!
//! This keeps accounts of one program apart. It is no encryption: who can read the file can read
//! its rows.

use std::{fmt, str::FromStr};

use rusqlite::Connection;
use thiserror::Error;

use crate::{Replica, ReplicaError, tables::meta};

/// Stands for a principal: the same for the same account, and it does not tell who that is.
///
/// ```
/// use anabranch_replica::Fingerprint;
///
/// let ann = Fingerprint::of("https://login.example.org", "ann");
/// assert_eq!(ann.to_string().parse(), Ok(ann));
/// // One file for each account: to switch accounts, open the other one's file.
/// assert_ne!(ann.file_name(), Fingerprint::of("https://login.example.org", "bob").file_name());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 16]);

/// The text is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a fingerprint has 32 hexadecimal digits; take it from Fingerprint::of")]
pub struct NoFingerprint;

/// For whom a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Principal {
    /// For nobody in particular: opens files that belong to nobody.
    #[default]
    Nobody,
    /// For this one: opens files that belong to it, and binds those that belong to nobody.
    Is(Fingerprint),
    /// For whomever it belongs to: for tools that look after files.
    Owner,
}

impl Fingerprint {
    /// The fingerprint of the account that `issuer` knows as `subject`, as a token names both.
    pub fn of(issuer: &str, subject: &str) -> Self {
        let mut hash = blake3::Hasher::new();
        hash.update(b"anabranch principal 1\n");
        hash.update(
            &u64::try_from(issuer.len())
                .unwrap_or(u64::MAX)
                .to_be_bytes(),
        );
        hash.update(issuer.as_bytes());
        hash.update(subject.as_bytes());
        let mut bytes = [0; 16];
        hash.finalize_xof().fill(&mut bytes);
        Self(bytes)
    }

    /// The fingerprint as it is kept.
    pub(crate) const fn bytes(self) -> [u8; 16] {
        self.0
    }

    /// A file name for the principal's replica.
    pub fn file_name(self) -> String {
        format!("{self}.db")
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    fn from_str(text: &str) -> Result<Self, NoFingerprint> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| digits);
        number
            .map(|number| Self(number.to_be_bytes()))
            .ok_or(NoFingerprint)
    }
}

/// Whom the file belongs to, if anybody.
pub(crate) fn owner(conn: &Connection) -> Result<Option<Fingerprint>, ReplicaError> {
    let held: Option<Vec<u8>> = meta::read(conn, PRINCIPAL)?;
    // Whoever it is that cannot be read, it is nobody who could be named.
    let fingerprint = |held: Vec<u8>| held.try_into().map_err(|_| ReplicaError::OtherPrincipal);
    held.map(fingerprint)
        .transpose()
        .map(|held| held.map(Fingerprint))
}

/// Whether the file is to be opened for `principal`.
pub(crate) fn admit(conn: &Connection, principal: Principal) -> Result<(), ReplicaError> {
    match (owner(conn)?, principal) {
        (None, _) | (Some(_), Principal::Owner) => Ok(()),
        (Some(held), Principal::Is(wanted)) if held == wanted => Ok(()),
        (Some(_), Principal::Is(_)) => Err(ReplicaError::OtherPrincipal),
        (Some(_), Principal::Nobody) => Err(ReplicaError::PrincipalNeeded),
    }
}

/// Whether a file that was opened for `principal` is still to be written for it.
pub(crate) fn still_admits(conn: &Connection, principal: Principal) -> Result<(), ReplicaError> {
    admit(conn, principal)?;
    let gone = || {
        let signed_out = meta::number(conn, SIGNED_OUT)? != 0;
        Ok::<_, ReplicaError>(signed_out || owner(conn)?.is_none())
    };
    match principal {
        Principal::Is(_) if gone()? => Err(ReplicaError::SignedOut),
        _ => Ok(()),
    }
}

impl Replica {
    /// Binds a file that belongs to nobody to whom it is used for from now on. For a file that
    /// belongs to somebody, whether it is this one.
    pub fn bind(&mut self, principal: Fingerprint) -> Result<(), ReplicaError> {
        self.turn(|turn| {
            admit(turn.tx, Principal::Is(principal))?;
            turn.sign_in(principal)
        })?;
        self.serve(Principal::Is(principal));
        Ok(())
    }

    /// Whether the file is still that of whom this replica was opened for, who may have signed out
    /// by another process. Writing and sending ask this.
    pub fn still_admits(&self) -> Result<(), ReplicaError> {
        let (conn, principal) = self.served();
        still_admits(conn, principal)
    }
}

/// Under which name the owner's fingerprint is kept.
pub(crate) const PRINCIPAL: &str = "principal";

/// Under which name it is kept that the owner has signed out and left unsent work behind.
pub(crate) const SIGNED_OUT: &str = "signed_out";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_of_both_parts_and_are_read_back() {
        let one = Fingerprint::of("a", "bc");
        assert_ne!(one, Fingerprint::of("ab", "c"));
        assert_eq!(one.to_string().len(), 32);
        assert_eq!(one.to_string().parse(), Ok(one));
        for wrong in [
            "",
            "ann",
            "+0000000000000000000000000000000",
            &"0".repeat(33),
        ] {
            assert_eq!(wrong.parse::<Fingerprint>(), Err(NoFingerprint), "{wrong}");
        }
    }
}
