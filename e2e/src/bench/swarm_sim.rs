//! Swarms too large for one machine, with the real engine and scheduler over simulated links.

use anyhow::{Result, ensure};
use darter_sim::swarm::{self, SwarmOptions};

use super::Options;
use super::blob::size_name;
use super::report::{Better, Report};
use super::stats::{median, millis};

/// 256 pieces of 4 MiB, as in the literature's comparisons.
const SIZE: u64 = 1 << 30;
const ORIGIN_BYTES_MAX: f64 = 1.02;
/// Nodes, and what the last of them may take over the bound.
const CASES: [(u32, f64); 2] = [(100, 1.15), (1000, 1.20)];

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let size = options.sized(SIZE);
    for (nodes, target) in CASES {
        let case = format!("n{nodes}-{}", size_name(size));
        if !options.wants(&case) {
            continue;
        }
        let runs = if nodes > 100 { 1 } else { 3 };
        let (mut times, mut origin, mut copies, mut half) = (vec![], vec![], vec![], vec![]);
        let (mut first, mut wasted) = (vec![], vec![]);
        for seed in 1..=options.runs(runs) {
            let seed = u64::try_from(seed)?;
            let result = swarm::run(&SwarmOptions {
                seed,
                ..SwarmOptions::of(nodes, size)
            });
            let finished = result.finished;
            ensure!(
                finished == nodes,
                "only {finished} of {nodes} nodes finished with seed {seed}"
            );
            times.push(result.time_over_bound);
            half.push(result.median_over_bound);
            origin.push(result.origin_bytes_over_size);
            copies.push(result.origin_copies_sent);
            first.push(millis(result.first_release));
            wasted.push(result.wasted);
        }
        let lower = Better::Lower;
        report.target(&case, "time_over_bound", median(&times), "ratio", lower, target);
        report.target(
            &case,
            "origin_bytes_over_size",
            median(&origin),
            "ratio",
            lower,
            ORIGIN_BYTES_MAX,
        );
        report.note(&case, "origin_copies_sent", median(&copies), "ratio", lower);
        report.note(&case, "median_node_over_bound", median(&half), "ratio", lower);
        report.note(&case, "last_first_byte_ms", median(&first), "ms", lower);
        report.note(&case, "received_twice", median(&wasted), "share", lower);
    }
    Ok(())
}
