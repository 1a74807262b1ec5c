//! The table of faults: each is done to real processes while clients pull, and every pull must end well.
//!
//! A bar is a function that makes its scene, does its fault so many times, and hands one [`Tally`] for each way of it to the
//! [`Report`]. Clients are containerd, or one that follows its rules and compares every byte ([`darter_testkit::puller`]). What a
//! fault adds is measured against the same pull without Darter in the same run.
//!
//! What must hold: a bar's own condition is checked beside its pulls, and is told when it is broken; times are
//! bounded generously, since machines are shared.

mod access;
mod changes;
mod control;
mod degradation;
mod disk;
mod flood;
mod integrity;
mod island;
mod liar;
mod limits;
mod manifests;
mod memory;
mod node;
mod origin;
mod peers;
mod process;
mod report;
mod room;
mod scene;
mod wire;

use anyhow::{Result, bail};
use clap::Parser;

use self::report::{Report, Tally};

/// Does faults to Darter while clients pull, and says what came of the pulls. Needs root: it makes network namespaces.
#[derive(Debug, Parser)]
#[command(name = "darter-faults", version)]
pub struct Options {
    /// As often as the bars say, instead of a few times: takes hours
    #[arg(long)]
    full: bool,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Only the bars with these numbers
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// How often faults are done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    full: bool,
}

impl Effort {
    /// `few`, or as often as the bar says.
    fn times(self, few: u64, full: u64) -> u64 {
        if self.full { full } else { few }
    }
}

/// Tries one bar.
type Try = fn(Effort, &mut Report) -> Result<()>;

/// Every bar that is tried here: its number, and how.
const BARS: &[(&str, Try)] = &[
    ("1", peers::one_flips),
    ("2", peers::all_flip),
    ("4", peers::nonsense),
    ("5", disk::bit_rot),
    ("6", integrity::lying_registry),
    ("7", integrity::poisoned_digest),
    ("10", manifests::moved_tag),
    ("12", manifests::no_manifests),
    ("13", access::without_token),
    ("14", access::with_other_token),
    ("38", limits::announced_sizes),
    ("41a", peers::silent_parent),
    ("42", limits::slow_loris),
    ("43", peers::black_holes),
    ("44", limits::slow_readers),
    ("46", flood::strangers),
    ("48", process::killed),
    ("49", process::frozen),
    ("50", degradation::source_fails),
    ("51", limits::overloaded),
    ("52", process::restarted),
    ("54", control::all_killed),
    ("55", room::full),
    ("56", disk::errors),
    ("58", origin::herd),
    ("59", origin::herd_of_nodes),
    ("60", origin::refusals),
    ("61", origin::cuts),
    ("62", changes::changes),
    ("63", origin::down),
    ("64", disk::killed_while_writing),
    ("66", disk::damaged),
    ("66", disk::cut_while_served),
    ("67", disk::slow),
    ("68", process::out_of_memory),
    ("69", control::scheduler),
    ("72", control::flapping),
];

/// Does all faults that were asked for. Whether every pull went well and every condition held.
///
/// # Errors
/// When a bar is asked for that is not there.
pub fn run(options: &Options) -> Result<bool> {
    for wanted in &options.only {
        if !BARS.iter().any(|(number, _)| number == wanted) {
            let known: Vec<&str> = BARS.iter().map(|(number, _)| *number).collect();
            bail!("there is no bar {wanted} here; there are {}", known.join(" "));
        }
    }
    let mut report = Report::new(options.json);
    let effort = Effort { full: options.full };
    for (number, attempt) in BARS {
        let wanted = options.only.is_empty() || options.only.iter().any(|only| only == number);
        if wanted && let Err(error) = attempt(effort, &mut report) {
            report.not_run(number, &error);
        }
    }
    Ok(report.finish())
}

/// Tries one bar a few times, as a test.
///
/// # Errors
/// When a pull fails or the bar's condition is broken.
pub fn holds(number: &str) -> Result<()> {
    let options = Options {
        full: false,
        json: true,
        only: vec![number.to_owned()],
    };
    if !run(&options)? {
        bail!("bar {number} does not hold: see above");
    }
    Ok(())
}

/// Moments or places spread evenly over 0 to 1, the same in every run: multiples of the golden ratio.
fn spread(round: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "rounds are few")]
    let round = round as f64;
    round * 0.618_034 % 1.0
}

/// The part of `whole` that [`spread`] gives, from 0 to `whole` - 1.
fn part_of(whole: u64, round: u64) -> u64 {
    let thousandths = (spread(round) * 1000.0).round();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 1000"
    )]
    let thousandths = thousandths as u64;
    (whole.saturating_sub(1)) * thousandths / 1000
}
