//! `cargo xtask`: the one entry to every task of a developer and of CI.
//!
//! It only puts commands together and reports how they went; what is tested lives in the crates. Arguments
//! are documented by `cargo xtask --help`. Start reading at [`Task`], then [`crate::steps`].

#![expect(
    clippy::print_stdout,
    reason = "a program for the terminal: its output is its purpose"
)]

mod apt;
mod fuzz;
mod openssl;
mod repeated;
mod report;
mod steps;
mod suites;
mod tidy;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer tasks of Darter.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version, about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
enum Task {
    /// Everything that CI runs: fmt, clippy, docs, tidy, unit and property tests, simulation, end to end
    #[command(alias = "ci")]
    Test(E2eOptions),
    /// The quick part of `test`, for before a commit: fmt, tidy, clippy, unit tests
    Check,
    /// Real binaries, real containerd and registry in network namespaces (needs root)
    E2e {
        /// Run only the tests whose name contains this
        filter: Option<String>,
        #[command(flatten)]
        options: E2eOptions,
    },
    /// Deterministic cluster simulation
    Sim {
        /// Replay this seed alone
        #[arg(long)]
        seed: Option<u64>,
        /// Run the scenarios that go by chance with so many new seeds each, in an optimised build
        #[arg(long, conflicts_with = "seed")]
        seeds: Option<u64>,
        /// Run only the tests whose name contains this
        filter: Option<String>,
    },
    /// Measure one benchmark, or list them when no name is given
    Bench {
        /// Name, then the benchmark's own arguments, as in `bench swarm --json`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Hours on the parsers of what the network sends; the unit tests do the same for a moment (needs nightly)
    Fuzz {
        /// One target; all of them otherwise
        target: Option<String>,
        /// Seconds for each target
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Do faults to a cluster while clients pull, and print what came of the pulls (needs root)
    Faults {
        /// Arguments: `--full` (also repeats tests of single processes as often as the bars say), `--json`, `--only 48,50`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// The whole system on this machine: `darter up` from a debug build
    Dev {
        /// Arguments for `darter up`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Sizes, module docs, links and named paths, without building anything
    Tidy,
}

/// How the end-to-end tests get their binary.
#[derive(Debug, clap::Args)]
pub(crate) struct E2eOptions {
    /// Cargo profile of the `darter` binary under test
    #[arg(long, default_value = "e2e")]
    pub(crate) profile: String,
    /// Keep the logs and directories of tests that pass as well
    #[arg(long)]
    pub(crate) keep: bool,
}

fn main() -> ExitCode {
    let task = Arguments::parse().task;
    let outcome = match &task {
        Task::Test(options) => steps::test(options),
        Task::Check => steps::check(),
        Task::E2e { filter, options } => steps::e2e(filter.as_deref(), options),
        Task::Sim { seed, seeds, filter } => steps::sim(*seed, *seeds, filter.as_deref()),
        Task::Bench { arguments } => steps::bench(arguments),
        Task::Fuzz { target, seconds } => steps::fuzz(target.as_deref(), *seconds),
        Task::Faults { arguments } => steps::faults(arguments),
        Task::Dev { arguments } => steps::dev(arguments),
        Task::Tidy => steps::tidy(),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
