//! What Darter costs and how fast it is, each number beside a yardstick measured in the same run.
//!
//! A benchmark is a file: it sets its scene (hosts of a [`crate::lab::Lab`], an nginx as the registry, Darter's
//! binary), measures in turns with its yardstick, and hands [`report::Report`] medians. Clients are threads of this
//! process that stand on the hosts ([`crate::host::on`]) and do nothing but read.
//!
//! What must hold: a number that has a target is a ratio of two measurements of one run, or a difference of two; the
//! conditions of the run are told beside it.

mod blob;
mod cached;
mod client;
mod cost;
mod images;
mod lazy;
mod machine;
mod many;
mod memory;
mod miss;
mod nginx;
mod node;
mod piece;
mod plain;
mod report;
mod scene;
mod scheduler;
mod scratch;
mod small;
mod stats;
mod swarm;
mod swarm_sim;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use self::machine::Conditions;
use self::report::Report;
pub(crate) use self::stats::median;

/// Measures Darter against its yardsticks. Needs root: it makes network namespaces.
#[derive(Debug, Parser)]
#[command(name = "darter-bench", version)]
pub struct Options {
    /// What to measure
    #[arg(value_enum)]
    name: Name,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Times that each measurement is made; default 5, and 3 for the swarms
    #[arg(long)]
    runs: Option<usize>,
    /// Sizes are divided by this, for trying things out: the case says the real size
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    divide: u64,
    /// Measure only the cases whose name contains this
    #[arg(long)]
    case: Option<String>,
    /// swarm: a real image of 1.1 GB by eight containerds instead (takes 20 GB of disk; the image is built once)
    #[arg(long)]
    ai: bool,
    /// swarm: measure the pull without Darter at full size instead of an eighth of it
    #[arg(long)]
    full_direct: bool,
    /// swarm: cap every link at so many Mbit/s instead; less where the cores are busy with something else
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    mbit: Option<u32>,
    /// plain-server: the file that is served
    #[arg(long, hide = true)]
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// A warm blob, against nginx with sendfile
    Cached,
    /// A first pull, against curl and openssl
    Miss,
    /// Pieces between nodes, against hyper without sendfile
    Piece,
    /// Blobs of 10 KiB
    Small,
    /// Eight and sixteen nodes over capped links, against the fluid bound
    Swarm,
    /// A hundred and a thousand simulated nodes, against the fluid bound
    SwarmSim,
    /// Idle, and with 200 slow readers
    Memory,
    /// Nydus images, against a full pull and the real nydusd
    Lazy,
    /// Ten thousand nodes, a hundred thousand contents
    Scheduler,
    /// The yardstick of `piece`, as a process of its own
    #[value(hide = true)]
    PlainServer,
}

impl Name {
    fn text(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Miss => "miss",
            Self::Piece => "piece",
            Self::Small => "small",
            Self::Swarm => "swarm",
            Self::SwarmSim => "swarm-sim",
            Self::Memory => "memory",
            Self::Lazy => "lazy",
            Self::Scheduler => "scheduler",
            Self::PlainServer => "plain-server",
        }
    }
}

impl Options {
    fn runs(&self, default: usize) -> usize {
        self.runs.unwrap_or(default).max(1)
    }

    fn wants(&self, case: &str) -> bool {
        self.case.as_ref().is_none_or(|part| case.contains(part.as_str()))
    }

    /// `bytes`, or the share of it that `--divide` leaves.
    fn sized(&self, bytes: u64) -> u64 {
        bytes / self.divide
    }
}

/// Runs one benchmark and prints it. Whether every target was met.
///
/// # Errors
/// When something cannot be set up or measured.
pub fn run(options: &Options) -> Result<bool> {
    if options.name == Name::PlainServer {
        return plain::serve(options.file.as_deref()).map(|()| true);
    }
    let conditions = Conditions::before()?;
    let mut report = Report::new(options.name.text(), options.json);
    match options.name {
        Name::Cached => cached::run(options, &mut report),
        Name::Miss => miss::run(options, &mut report),
        Name::Piece => piece::run(options, &mut report),
        Name::Small => small::run(options, &mut report),
        Name::Swarm if options.ai => images::run(options, &mut report),
        Name::Swarm => swarm::run(options, &mut report),
        Name::SwarmSim => swarm_sim::run(options, &mut report),
        Name::Memory => memory::run(options, &mut report),
        Name::Lazy => lazy::run(options, &mut report),
        Name::Scheduler => scheduler::run(options, &mut report),
        Name::PlainServer => Ok(()),
    }?;
    Ok(report.finish(&conditions.after()?))
}
