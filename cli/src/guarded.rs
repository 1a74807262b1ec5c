//! `run --supervised`: this process only watches; the same command without the flag does the work in another one.

use std::os::unix::process::ExitStatusExt as _;

use anyhow::{Context as _, Result, bail};
use darter_service::config::Period;
use darter_service::guardian::{GUARDED, Guardian, START_GRACE, follow_guardian};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::exit::Ended;
use crate::role::Installed;
use crate::system;

const FLAG: &str = "--supervised";

/// At the start of every process: one that has a guardian ends with it.
pub(crate) fn follow() -> Result<()> {
    follow_guardian(std::env::var_os(GUARDED).as_deref())
        .context("cannot follow the process that watches this one")
}

/// Runs the command line of this process without `--supervised` in another process, again and again; a worker may be
/// silent for `patience`.
pub(crate) fn run(patience: Option<Period>, log: impl AsyncFnOnce() -> Result<Installed>) -> Result<()> {
    let guardian = Guardian {
        // As it was found, so that a newer program in its place is what the next worker runs.
        program: std::env::current_exe().context("cannot find the program of this process")?,
        arguments: std::env::args_os()
            .skip(1)
            .filter(|argument| argument != FLAG)
            .collect(),
        patience: patience.map(|patience| patience.as_duration()),
        start: START_GRACE,
        outer: system::notifier()?,
        rng: StdRng::seed_from_u64(system::random()),
    };
    // One thread: the kernel ends the worker with the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the process")?;
    let status = runtime.block_on(async {
        log().await?;
        guardian.run().await.context("cannot run the worker")
    })?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        // It has said itself what went wrong.
        (Some(code), _) => Err(Ended(u8::try_from(code).unwrap_or(1)).into()),
        (None, signal) => bail!("the worker was ended by signal {}", signal.unwrap_or_default()),
    }
}
