//! How the process ends: 0 for a clean stop, 64 for what the user can correct by typing or writing something else,
//! 1 for everything else. The numbers are those of `sysexits.h`.

use std::process::ExitCode;

use darter_service::config::ConfigError;
use thiserror::Error;

const BAD_USAGE: u8 = 64;

/// Something on the command line that clap cannot know to be wrong.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Another process has said what went wrong; this one ends as it did.
#[derive(Debug, Error)]
#[error("ended with status {0}")]
pub(crate) struct Ended(pub(crate) u8);

/// What clap has to say: help and version are no errors.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    // Nobody is left to hear about a closed terminal.
    let _ = error.print();
    if error.use_stderr() {
        ExitCode::from(BAD_USAGE)
    } else {
        ExitCode::SUCCESS
    }
}

/// Says on standard error what went wrong, once, with all causes.
pub(crate) fn code(outcome: anyhow::Result<()>) -> ExitCode {
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    if let Some(Ended(code)) = error.downcast_ref() {
        return ExitCode::from(*code);
    }
    report(&error);
    if is_usage(&error) {
        ExitCode::from(BAD_USAGE)
    } else {
        ExitCode::FAILURE
    }
}

#[expect(clippy::print_stderr, reason = "the last words of the process")]
fn report(error: &anyhow::Error) {
    match error.downcast_ref::<ConfigError>() {
        // One problem a line, as editors and scripts like it.
        Some(problems) => eprintln!("{problems}"),
        None => eprintln!("darter: {error:#}"),
    }
}

fn is_usage(error: &anyhow::Error) -> bool {
    error.is::<ConfigError>() || error.is::<Usage>()
}
