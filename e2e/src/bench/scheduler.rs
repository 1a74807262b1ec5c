//! The scheduler's own code with a large cluster: how long a decision takes, and what it remembers costs.

use anyhow::Result;
use darter_scheduler::scale::{self, Scale};

use super::Options;
use super::cost::Memory;
use super::report::{Better, Report};
use super::stats::float;
use crate::clock::now;

const NODES: u32 = 10_000;
const TASKS: u32 = 100_000;
const WANTS: u32 = 10;
const DECISION_MAX_US: f64 = 1000.0;
const MEMORY_MAX_MIB: f64 = 1024.0;

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let divide = u32::try_from(options.divide)?;
    let scale = Scale {
        hosts: NODES / divide,
        tasks: TASKS / divide,
        wants_per_task: WANTS,
        seed: 1,
    };
    let start = now();
    let outcome = scale::run(scale, || start.elapsed());
    let took = start.elapsed();
    let memory = Memory::of("self")?;
    let case = format!("{}-nodes-{}-tasks", scale.hosts, scale.tasks);
    let micros = |share| float(outcome.quantile_ns(share)) / 1000.0;
    let lower = Better::Lower;
    report.target(
        &case,
        "decision_p99_us",
        micros(0.99),
        "us",
        lower,
        DECISION_MAX_US,
    );
    let resident = float(memory.resident) / 1024.0;
    report.target(&case, "rss_mib", resident, "MiB", lower, MEMORY_MAX_MIB);
    report.note(&case, "decision_p50_us", micros(0.50), "us", lower);
    report.note(&case, "decision_max_us", micros(1.0), "us", lower);
    let decisions = f64::from(scale.tasks) * f64::from(scale.wants_per_task);
    let rate = decisions / took.as_secs_f64();
    report.note(&case, "pulls_per_s", rate, "1/s", Better::Higher);
    report.note(
        &case,
        "messages_per_want",
        float(outcome.messages) / decisions,
        "count",
        lower,
    );
    Ok(())
}
