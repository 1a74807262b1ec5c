//! The table of faults: `darter-faults [--full] [--json] [--only N,M]`, which `cargo xtask faults` builds and runs.
//!
//! Exit status 0 when every pull went well and every condition held, 1 when one did not, 64 on bad usage.

#![expect(
    clippy::print_stderr,
    reason = "a program for the terminal: its output is its purpose"
)]

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use darter_e2e::faults::{self, Options};

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(64),
            };
        }
    };
    match faults::run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
