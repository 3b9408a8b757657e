//! The SQLite replica of Anabranch: capture, seal, merge, outbox.
