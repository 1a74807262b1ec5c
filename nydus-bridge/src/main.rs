//! The binary `darter-bridge`, which `darter mount` and `darter umount` start from beside themselves: OpenSSL and FUSE stay
//! out of the mirror. What its subcommands do is in `command`.
//!
//! What must hold: bad usage ends with status 64, a clean unmount with 0, everything else with 1, as with `darter`.

mod command;

use std::process::ExitCode;

use clap::Parser;

use crate::command::Command;

const BAD_USAGE: u8 = 64;

/// Nydus images, mounted lazily.
#[derive(Debug, Parser)]
#[command(
    name = "darter",
    version,
    disable_help_subcommand = true,
    max_term_width = 100
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse_from(command::nydusd::arguments(std::env::args_os())) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nobody is left to hear about a closed terminal.
            let _ = error.print();
            let wrong = error.use_stderr();
            return if wrong {
                ExitCode::from(BAD_USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match arguments.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the last words of the process")]
fn report(error: &anyhow::Error) {
    eprintln!("darter: {error:#}");
}
