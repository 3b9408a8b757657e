//! The Postgres store of Anabranch: installation, log tailer, snapshots, merge writer.
