//! The benchmarks: `darter-bench NAME [--json]`, which `cargo xtask bench` builds and runs.
//!
//! Exit status 0 when every target is met, 1 when one is missed or a measurement failed, 64 on bad usage.

#![expect(
    clippy::print_stderr,
    reason = "a program for the terminal: its output is its purpose"
)]

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use darter_e2e::bench::{self, Options};

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
    match bench::run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
