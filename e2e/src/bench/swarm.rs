//! One cold blob on many nodes at once, every link capped alike, against the fluid bound and against the same pull
//! without Darter.
//!
//! The bound is Kumar and Ross's: the origin must send all once, every node must receive all, and everything that is
//! received must be sent. It counts payload: TCP gets [`PAYLOAD_SHARE`] of a capped link.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Options;
use super::blob::{Blob, size_name};
use super::client::Client;
use super::cost::process_tree;
use super::machine::Ticks;
use super::report::{Better, Report};
use super::scene::{Cluster, Shape};
use super::scratch::Root;
use super::stats::{float, gib, median};
use crate::host::together;
use crate::netns::Namespace;
use crate::shape::PAYLOAD_SHARE;

const TIME_MAX: f64 = 1.25;
const ORIGIN_BYTES_MAX: f64 = 1.02;
const SENT: &str = "darter_proxy_peer_sent_bytes_total";
/// The part of the blob whose direct pull is measured; the rest takes as long again, so often.
const DIRECT_PART: u64 = 8;

struct Case {
    nodes: u8,
    size: u64,
    mbit: u32,
}

/// Links so slow that they bind: what sixteen nodes receive over 100 Mbit/s keeps two cores busy to 80 %.
const CASES: [Case; 2] = [
    Case {
        nodes: 8,
        size: 512 << 20,
        mbit: 200,
    },
    Case {
        nodes: 16,
        size: 128 << 20,
        mbit: 50,
    },
];

/// What came of the runs of one case, one entry a run.
#[derive(Debug, Default)]
struct Samples {
    last: Vec<f64>,
    half: Vec<f64>,
    first_byte_ms: Vec<f64>,
    origin_bytes: Vec<f64>,
    copies: Vec<f64>,
    cpu_per_gib: Vec<f64>,
    busy: Vec<f64>,
}

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    for case in CASES {
        let size = options.sized(case.size);
        let name = format!("n{}-{}", case.nodes, size_name(size));
        if options.wants(&name) {
            let mbit = options.mbit.unwrap_or(case.mbit);
            measure(options, report, &Case { size, mbit, ..case }, &name)?;
        }
    }
    Ok(())
}

fn measure(options: &Options, report: &mut Report, case: &Case, name: &str) -> Result<()> {
    let root = Root::create()?;
    let blob = Blob::make(root.path(), case.size, 1)?;
    let shape = Shape {
        nodes: case.nodes,
        mbit: Some(case.mbit),
    };
    let mut cluster = Cluster::start(shape, root.path())?;
    let mut samples = Samples::default();
    cluster.warm_up(case.size * u64::from(case.nodes + 2))?;
    for _ in 0..options.runs(3) {
        once(&mut cluster, &blob, &mut samples)?;
    }
    let direct = direct(options, &cluster, &blob)?;
    let bound = bound(case).as_secs_f64();
    let last = median(&samples.last);
    let (lower, higher) = (Better::Lower, Better::Higher);
    report.target(name, "time_over_bound", last / bound, "ratio", lower, TIME_MAX);
    let origin = median(&samples.origin_bytes);
    report.target(
        name,
        "origin_bytes_over_size",
        origin,
        "ratio",
        lower,
        ORIGIN_BYTES_MAX,
    );
    report.note(
        name,
        "origin_copies_sent",
        median(&samples.copies),
        "ratio",
        lower,
    );
    report.note(name, "speedup_vs_direct", direct / last, "ratio", higher);
    let worst = samples.last.iter().copied().fold(0.0, f64::max);
    report.note(name, "worst_run_over_bound", worst / bound, "ratio", lower);
    report.note(
        name,
        "median_node_over_bound",
        median(&samples.half) / bound,
        "ratio",
        lower,
    );
    report.note(name, "first_byte_ms", median(&samples.first_byte_ms), "ms", lower);
    report.note(name, "link_mbit", f64::from(case.mbit), "Mbit/s", higher);
    report.note(name, "bound_s", bound, "s", lower);
    report.note(name, "direct_s", direct, "s", lower);
    report.note(
        name,
        "cpu_s_per_gib_received",
        median(&samples.cpu_per_gib),
        "s/GiB",
        lower,
    );
    report.note(name, "machine_busy", median(&samples.busy), "share", lower);
    cluster.passed();
    Ok(())
}

/// max(F/u_origin, F/d, N·F/(u_origin + N·u)), with all links alike.
fn bound(case: &Case) -> Duration {
    let rate = f64::from(case.mbit) * 1e6 / 8.0 * PAYLOAD_SHARE;
    let nodes = f64::from(case.nodes);
    let size = float(case.size);
    let shared = nodes * size / (rate + nodes * rate);
    Duration::from_secs_f64((size / rate).max(shared))
}

/// All nodes pull the blob through fresh nodes.
fn once(cluster: &mut Cluster, blob: &Blob, samples: &mut Samples) -> Result<()> {
    let hosts = cluster.nodes.clone();
    let before = cluster.registry.served()?;
    let darter = cluster.start_darter()?;
    let mirrors: Vec<&str> = darter.nodes.iter().map(|node| node.mirror.as_str()).collect();
    let pids = || {
        darter
            .nodes
            .iter()
            .chain([&darter.seed])
            .map(|node| process_tree(node.id()))
    };
    let cost = || pids().sum::<Result<Duration>>();
    let (ticks, before_pull) = (Ticks::now()?, cost()?);
    let connect = |index: usize| Client::connect(mirrors.get(index).context("a host without a mirror")?);
    let path = blob.mirror_path();
    let answers = together(&hosts, connect, |mut client| client.get(&path))?;
    samples.busy.push(ticks.until_now()?.busy);
    let received = gib(blob.size) * float(hosts.len() as u64 + 1);
    samples
        .cpu_per_gib
        .push((cost()? - before_pull).as_secs_f64() / received);
    let copies = darter.seed.metric(SENT)? / float(blob.size);
    let mut times: Vec<f64> = answers.iter().map(|answer| answer.took.as_secs_f64()).collect();
    times.sort_by(f64::total_cmp);
    samples.half.push(median(&times));
    samples.last.push(times.last().copied().unwrap_or(f64::NAN));
    let first: Vec<f64> = answers
        .iter()
        .map(|answer| super::stats::millis(answer.first_byte))
        .collect();
    samples.first_byte_ms.push(median(&first));
    samples.copies.push(copies);
    let served = cluster.registry.served_at_least(before.gets + 1)? - before;
    samples.origin_bytes.push(float(served.bytes) / float(blob.size));
    cluster.stop_darter()
}

/// Seconds until the last node has the blob from the registry itself.
fn direct(options: &Options, cluster: &Cluster, blob: &Blob) -> Result<f64> {
    let part = if options.full_direct { 1 } else { DIRECT_PART };
    let (length, path) = (blob.size / part, blob.path());
    let hosts: &[Namespace] = &cluster.nodes;
    let connect = |_| Client::connect(&cluster.registry.address);
    let answers = together(hosts, connect, |mut client| client.get_range(&path, 0, length))?;
    let last = answers.iter().map(|answer| answer.took).max().unwrap_or_default();
    Ok(last.as_secs_f64() * float(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alike_links_are_bound_by_the_origin() {
        let case = Case {
            nodes: 8,
            size: 512 << 20,
            mbit: 200,
        };
        let seconds = bound(&case).as_secs_f64();
        assert!((seconds - 22.45).abs() < 0.01, "{seconds}");
    }
}
