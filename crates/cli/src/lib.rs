//! The anabranch command line.
