//! Whose the file is: the account it belongs to, the replica it is, and signing out.

pub(crate) mod identity;
pub(crate) mod principal;
pub(crate) mod sign_out;
