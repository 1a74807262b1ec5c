//! A blob that the node has, against the same file from nginx with sendfile.

use std::time::Duration;

use anyhow::Result;

use super::Options;
use super::blob::{Blob, size_name};
use super::client::Client;
use super::cost::process_tree;
use super::report::{Better, Report};
use super::scene::Alone;
use super::stats::{gib, median, ratio};
use crate::clock::now;
use crate::host::{on, together};
use crate::netns::Namespace;

/// Length of the blob.
const SIZE: u64 = 1 << 30;
/// Clients of the second case, and what they ask for at a time.
const CLIENTS: u64 = 16;
const RANGE: u64 = 4 << 20;
/// How often a sample reads the blob: the kernel counts processor time in steps of 10 ms.
const PASSES: u64 = 2;

const THROUGHPUT_MIN: f64 = 0.80;
const COST_MAX: f64 = 1.35;

/// Something that serves the blob.
struct Server {
    address: String,
    path: String,
    pid: u32,
}

/// Samples of one server.
#[derive(Default)]
struct Samples {
    gib_per_second: Vec<f64>,
    cpu_per_gib: Vec<f64>,
}

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let scene = Alone::start()?;
    let blob = Blob::make(&scene.root, options.sized(SIZE).max(CLIENTS * RANGE), 1)?;
    let node = scene.node("cached", 0, &[])?;
    let nginx = Server {
        address: scene.registry.address.clone(),
        path: blob.path(),
        pid: scene.registry.id(),
    };
    let darter = Server {
        address: node.mirror.clone(),
        path: blob.mirror_path(),
        pid: node.id(),
    };
    let name = size_name(blob.size);
    if options.wants(&format!("1x{name}")) {
        let read = |server: &Server| one(&scene.host, server);
        compare(options, report, &format!("1x{name}"), [&nginx, &darter], read)?;
    }
    if options.wants("16x4MiB") {
        let read = |server: &Server| many(&scene.host, server, blob.size);
        compare(options, report, "16x4MiB", [&nginx, &darter], read)?;
    }
    drop(node);
    scene.passed();
    Ok(())
}

/// Measures both in turns.
fn compare(
    options: &Options,
    report: &mut Report,
    case: &str,
    servers: [&Server; 2],
    read: impl Fn(&Server) -> Result<(u64, Duration)>,
) -> Result<()> {
    let [mut nginx, mut darter] = [Samples::default(), Samples::default()];
    for server in servers {
        read(server)?; // Brings the blob to the node, and every page into memory.
    }
    for _ in 0..options.runs(7) {
        for (server, samples) in servers.into_iter().zip([&mut nginx, &mut darter]) {
            let before = process_tree(server.pid)?;
            let (bytes, took) = read(server)?;
            let cost = process_tree(server.pid)? - before;
            samples.gib_per_second.push(gib(bytes) / took.as_secs_f64());
            samples.cpu_per_gib.push(cost.as_secs_f64() / gib(bytes));
        }
    }
    let throughput = ratio(&darter.gib_per_second, &nginx.gib_per_second);
    let cost = ratio(&darter.cpu_per_gib, &nginx.cpu_per_gib);
    let (higher, lower) = (Better::Higher, Better::Lower);
    report.target(
        case,
        "throughput_vs_nginx",
        throughput,
        "ratio",
        higher,
        THROUGHPUT_MIN,
    );
    report.target(case, "cpu_vs_nginx", cost, "ratio", lower, COST_MAX);
    report.note(case, "gib_per_s", median(&darter.gib_per_second), "GiB/s", higher);
    report.note(
        case,
        "nginx_gib_per_s",
        median(&nginx.gib_per_second),
        "GiB/s",
        higher,
    );
    report.note(case, "cpu_s_per_gib", median(&darter.cpu_per_gib), "s/GiB", lower);
    report.note(
        case,
        "nginx_cpu_s_per_gib",
        median(&nginx.cpu_per_gib),
        "s/GiB",
        lower,
    );
    Ok(())
}

/// One client reads the blob from end to end.
fn one(host: &Namespace, server: &Server) -> Result<(u64, Duration)> {
    on(host, || {
        let mut client = Client::connect(&server.address)?;
        let start = now();
        let mut bytes = 0;
        for _ in 0..PASSES {
            bytes += client.get(&server.path)?.bytes;
        }
        Ok((bytes, start.elapsed()))
    })
}

/// Clients read it together, each another range at a time.
fn many(host: &Namespace, server: &Server, size: u64) -> Result<(u64, Duration)> {
    let hosts = vec![host.clone(); usize::try_from(CLIENTS)?];
    let rounds = PASSES * size / (CLIENTS * RANGE);
    let prepare = |index| Ok((u64::try_from(index)?, Client::connect(&server.address)?));
    let results = together(&hosts, prepare, |(index, mut client)| {
        let start = now();
        let mut bytes = 0;
        for round in 0..rounds {
            let first = (round * CLIENTS + index) * RANGE % size;
            bytes += client.get_range(&server.path, first, RANGE)?.bytes;
        }
        Ok((bytes, start.elapsed()))
    })?;
    let last = results.iter().map(|(_, took)| *took).max().unwrap_or_default();
    Ok((results.iter().map(|(bytes, _)| bytes).sum(), last))
}
