//! The program, as a person or a script runs it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod a_file_is_examined;
mod a_replica_is_synced_by_hand;
mod a_schema_changes_under_pending_writes;
mod bad_input_is_told;
mod columns_add_up_and_unite;
mod common;
mod demo_converges;
mod merging_is_measured;
mod postgres_is_installed_and_served;
mod work_is_carried_by_hand;
