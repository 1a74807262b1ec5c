//! Blobs of 10 KiB: what a node adds when another one holds the blob, and a thousand of them on eight nodes.

use std::time::Duration;

use anyhow::Result;

use super::Options;
use super::blob::{Blob, size_name};
use super::client::Client;
use super::report::{Better, Report};
use super::scene::{Cluster, Shape};
use super::stats::{median, millis, quantile};
use super::{many, scratch::Root};
use crate::host::on;
use crate::netns::Namespace;

const SIZE: u64 = 10 * 1024;
const BLOBS: u64 = 200;
const ADDED_MAX_MS: f64 = 10.0;

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let case = format!("peer-{}", size_name(SIZE));
    if options.wants(&case) {
        held_by_peer(options, report, &case)?;
    }
    many::run(options, report)
}

fn held_by_peer(options: &Options, report: &mut Report, case: &str) -> Result<()> {
    let root = Root::create()?;
    let shape = Shape { nodes: 2, mbit: None };
    let mut cluster = Cluster::start(shape, root.path())?;
    let count = options.sized(BLOBS).max(5);
    let blobs: Result<Vec<Blob>> = (0..count)
        .map(|seed| Blob::make(root.path(), SIZE, seed))
        .collect();
    let (blobs, registry) = (blobs?, cluster.registry.address.clone());
    let direct = match cluster.nodes.first() {
        Some(host) => each(host, &registry, blobs.iter().map(Blob::path))?,
        None => Vec::new(),
    };
    let darter = cluster.start_darter()?;
    let mut times = Vec::new();
    for node in &darter.nodes {
        // The first node's pull brings them to the seed and to itself; the second one finds them there.
        times = each(&node.host, &node.mirror, blobs.iter().map(Blob::mirror_path))?;
    }
    let added = median(&times) - median(&direct);
    let lower = Better::Lower;
    report.target(case, "added_ms_vs_origin", added, "ms", lower, ADDED_MAX_MS);
    report.note(case, "origin_ms", median(&direct), "ms", lower);
    report.note(case, "p99_ms", quantile(&times, 99), "ms", lower);
    report.note(case, "origin_p99_ms", quantile(&direct, 99), "ms", lower);
    cluster.passed();
    Ok(())
}

/// Gets each path, one after the other over one connection; milliseconds of each.
fn each(host: &Namespace, address: &str, paths: impl Iterator<Item = String> + Send) -> Result<Vec<f64>> {
    on(host, || {
        let mut client = Client::connect(address)?;
        let took = paths.map(|path| Ok(client.get(&path)?.took));
        let took: Result<Vec<Duration>> = took.collect();
        Ok(took?.into_iter().map(millis).collect())
    })
}
