//! Pieces from a node's peer port, against the same bytes from hyper without sendfile. One hyper client, the kind that
//! nodes have, reads from both; what both ends cost is compared.
//!
//! Not here: what a node does with a piece besides receiving it. `whole_pull_cpu_s_per_gib` tells that.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Options;
use super::blob::{Blob, size_name};
use super::client::Client;
use super::cost::{process_tree, this_thread};
use super::node::Node;
use super::plain::{self, Reading};
use super::report::{Better, Report};
use super::scene::Alone;
use super::stats::{gib, median, ratio};
use crate::clock::{now, pause};
use crate::host::{on, together};
use crate::process::Process;

const SIZE: u64 = 1 << 30;
/// What a node asks a parent for at a time, about.
const RANGE: u64 = 4 << 20;
const PASSES: u64 = 2;
const COST_MAX: f64 = 1.0;
const START: Duration = Duration::from_secs(30);

struct Server {
    pid: u32,
    reading: Reading,
}

#[derive(Default)]
struct Samples {
    cpu_per_gib: Vec<f64>,
    server_cpu_per_gib: Vec<f64>,
    gib_per_second: Vec<f64>,
}

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let scene = Alone::start()?;
    let blob = Blob::make(&scene.root, options.sized(SIZE).max(2 * RANGE), 1)?;
    let scheduler = scene.scheduler()?;
    let addresses = [scheduler.address.clone()];
    let holder = scene.node("holder", 0, &addresses)?;
    pause(Duration::from_secs(2)); // A new scheduler gives no leases for a second.
    on(&scene.host, || {
        Client::connect(&holder.mirror)?.get(&blob.mirror_path())
    })?;
    let mut plain = Process::start(
        "the plain server",
        scene
            .host
            .command(std::env::current_exe().context("this program has no path")?)
            .args(["plain-server", "--file"])
            .arg(&blob.file),
        &scene.folder("plain.log"),
    )?;
    let reading = |address: String, path: &str| Reading {
        address,
        path: path.to_owned(),
        length: blob.size,
        range: RANGE,
    };
    let plain_address = format!("{}:{}", scene.host.address(), plain::PORT);
    let url = format!("http://{plain_address}/");
    plain.ready(START, || {
        let mut curl = scene.host.command("curl");
        crate::command::run(curl.args(["-s", "-f", "-r", "0-0", "-o", "/dev/null", &url])).ok()
    })?;
    let servers = [
        Server {
            pid: plain.id(),
            reading: reading(plain_address, "/"),
        },
        Server {
            pid: holder.id(),
            reading: reading(holder.peer.clone(), &format!("/v1/tasks/{}/pieces", blob.digest)),
        },
    ];
    for connections in [1, 4] {
        compare(options, report, &scene, &servers, connections)?;
    }
    whole_pull(options, report, &scene, &blob, &holder, &addresses)?;
    drop((plain, holder, scheduler));
    scene.passed();
    Ok(())
}

fn compare(
    options: &Options,
    report: &mut Report,
    scene: &Alone,
    servers: &[Server; 2],
    connections: usize,
) -> Result<()> {
    let size = servers.first().map_or(0, |server| server.reading.length);
    let case = format!("{connections}x{}", size_name(size));
    if !options.wants(&case) {
        return Ok(());
    }
    let [mut plain, mut darter] = [Samples::default(), Samples::default()];
    for server in servers {
        read(scene, server, connections, &mut Samples::default())?;
    }
    for _ in 0..options.runs(7) {
        for (server, samples) in servers.iter().zip([&mut plain, &mut darter]) {
            read(scene, server, connections, samples)?;
        }
    }
    let cost = ratio(&darter.cpu_per_gib, &plain.cpu_per_gib);
    let lower = Better::Lower;
    report.target(&case, "cpu_vs_plain_hyper", cost, "ratio", lower, COST_MAX);
    let sending = ratio(&darter.server_cpu_per_gib, &plain.server_cpu_per_gib);
    report.note(&case, "sender_cpu_vs_plain_hyper", sending, "ratio", lower);
    let speed = ratio(&darter.gib_per_second, &plain.gib_per_second);
    report.note(&case, "throughput_vs_plain_hyper", speed, "ratio", Better::Higher);
    report.note(
        &case,
        "cpu_s_per_gib",
        median(&darter.cpu_per_gib),
        "s/GiB",
        lower,
    );
    report.note(
        &case,
        "plain_cpu_s_per_gib",
        median(&plain.cpu_per_gib),
        "s/GiB",
        lower,
    );
    Ok(())
}

fn read(scene: &Alone, server: &Server, connections: usize, samples: &mut Samples) -> Result<()> {
    let hosts = vec![scene.host.clone(); connections];
    let (before, start) = (process_tree(server.pid)?, now());
    let work = |()| {
        for _ in 0..PASSES {
            plain::fetch(&server.reading)?;
        }
        this_thread()
    };
    let clients = together(&hosts, |_| Ok(()), work)?;
    let took = start.elapsed();
    let sender = process_tree(server.pid)? - before;
    let bytes = gib(server.reading.length * PASSES * u64::try_from(connections)?);
    let all = sender + clients.into_iter().sum::<Duration>();
    samples.cpu_per_gib.push(all.as_secs_f64() / bytes);
    samples.server_cpu_per_gib.push(sender.as_secs_f64() / bytes);
    samples.gib_per_second.push(bytes / took.as_secs_f64());
    Ok(())
}

/// A new node pulls the whole blob from the other one: to disk, proved and to its client.
fn whole_pull(
    options: &Options,
    report: &mut Report,
    scene: &Alone,
    blob: &Blob,
    holder: &Node,
    schedulers: &[String],
) -> Result<()> {
    let case = format!("pull-{}", size_name(blob.size));
    if !options.wants(&case) {
        return Ok(());
    }
    let before = scene.registry.served_at_least(1)?.gets;
    let (mut costs, mut speeds) = (Vec::new(), Vec::new());
    for _ in 0..=options.runs(5) {
        let asker = scene.node("asker", 1, schedulers)?;
        let total = || Ok::<_, anyhow::Error>(process_tree(asker.id())? + process_tree(holder.id())?);
        let before = total()?;
        let answer = on(&scene.host, || {
            Client::connect(&asker.mirror)?.get(&blob.mirror_path())
        })?;
        costs.push((total()? - before).as_secs_f64() / gib(blob.size));
        speeds.push(gib(blob.size) / answer.took.as_secs_f64());
        drop(asker);
        std::fs::remove_dir_all(scene.folder("asker"))?;
    }
    let first = costs.remove(0); // It also pays for memory that nobody used for long.
    let (lower, higher) = (Better::Lower, Better::Higher);
    report.note(&case, "whole_pull_cpu_s_per_gib", median(&costs), "s/GiB", lower);
    report.note(&case, "first_pull_cpu_s_per_gib", first, "s/GiB", lower);
    report.note(&case, "gib_per_s", median(&speeds), "GiB/s", higher);
    let again = scene.registry.served()?.gets - before;
    report.note(&case, "origin_gets", super::stats::float(again), "count", lower);
    Ok(())
}
