//! The `anabranch` binary; what it does is in the crate `anabranch-cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    anabranch_cli::main()
}
