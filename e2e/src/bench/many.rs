//! A thousand blobs of 10 KiB on eight nodes at once: what a blob costs in time and in requests to the registry.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Options;
use super::blob::{Blob, size_name};
use super::client::Client;
use super::report::{Better, Report};
use super::scene::{Cluster, Shape};
use super::scratch::Root;
use super::stats::{float, median, millis};
use crate::clock::now;
use crate::host::together;
use crate::netns::Namespace;

const SIZE: u64 = 10 * 1024;
const BLOBS: u64 = 1000;
const NODES: u8 = 8;
/// Downloads that containerd runs at a time.
const CONNECTIONS: usize = 3;
const ORIGIN_BYTES_MAX: f64 = 1.02;

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let count = options.sized(BLOBS).max(10);
    let case = format!("n{NODES}-{count}x{}", size_name(SIZE));
    if !options.wants(&case) {
        return Ok(());
    }
    let root = Root::create()?;
    let blobs: Result<Vec<Blob>> = (0..count)
        .map(|seed| Blob::make(root.path(), SIZE, seed))
        .collect();
    let blobs = blobs?;
    let shape = Shape {
        nodes: NODES,
        mbit: None,
    };
    let mut cluster = Cluster::start(shape, root.path())?;
    let (mut times, mut requests, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    let (hosts, registry) = (cluster.nodes.clone(), cluster.registry.address.clone());
    let paths: Vec<String> = blobs.iter().map(Blob::path).collect();
    let direct = pull(&hosts, &vec![registry; hosts.len()], &paths)?;
    let paths: Vec<String> = blobs.iter().map(Blob::mirror_path).collect();
    for _ in 0..options.runs(3) {
        let before = cluster.registry.served()?;
        let mirrors: Vec<String> = cluster
            .start_darter()?
            .nodes
            .iter()
            .map(|node| node.mirror.clone())
            .collect();
        let took = pull(&hosts, &mirrors, &paths)?;
        let served = cluster.registry.served_at_least(before.gets + count)? - before;
        times.push(millis(took) / float(count));
        requests.push(float(served.requests) / float(count));
        bytes.push(float(served.bytes) / float(count * SIZE));
        cluster.stop_darter()?;
    }
    let lower = Better::Lower;
    report.target(
        &case,
        "origin_bytes_over_size",
        median(&bytes),
        "ratio",
        lower,
        ORIGIN_BYTES_MAX,
    );
    report.note(&case, "ms_per_blob", median(&times), "ms", lower);
    report.note(
        &case,
        "direct_ms_per_blob",
        millis(direct) / float(count),
        "ms",
        lower,
    );
    report.note(
        &case,
        "origin_requests_per_blob",
        median(&requests),
        "count",
        lower,
    );
    cluster.passed();
    Ok(())
}

/// All paths on every host at once, over three connections each; until the last has all.
fn pull(hosts: &[Namespace], addresses: &[String], paths: &[String]) -> Result<Duration> {
    let places: Vec<Namespace> = hosts
        .iter()
        .flat_map(|host| vec![host.clone(); CONNECTIONS])
        .collect();
    let prepare = |index: usize| {
        let address = addresses
            .get(index / CONNECTIONS)
            .context("a host without an address")?;
        Ok((index % CONNECTIONS, Client::connect(address)?))
    };
    let times = together(&places, prepare, |(first, mut client)| {
        let start = now();
        for path in paths.iter().skip(first).step_by(CONNECTIONS) {
            client.get(path)?;
        }
        Ok(start.elapsed())
    })?;
    Ok(times.into_iter().max().unwrap_or_default())
}
