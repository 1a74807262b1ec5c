//! What leaves the registry when four nodes of a swarm run the same program at once.

use anyhow::{Context as _, Result};

use super::super::Options;
use super::super::report::{Better, Report};
use super::super::stats::{float, ratio};
use super::TAG;
use super::reads::import;
use crate::host::together;
use crate::nydus::{Nodes, Setting};

const NODES: u8 = 4;

/// In both modes of `pull.onDemand`. In order, all of a content comes, whatever of it is read: only pieces out of order can reach
/// the target.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    for (case, always) in [("origin-n4-always", true), ("origin-n4-alone", false)] {
        if !options.wants(case) {
            continue;
        }
        let (mut sent, mut read, mut size) = (Vec::new(), Vec::new(), 0.0);
        for _ in 0..options.runs(3) {
            let (left, came, blobs) = once(always)?;
            sent.push(left);
            read.push(came);
            size = blobs;
        }
        let (value, lower) = (ratio(&sent, &read), Better::Lower);
        if always {
            report.target(case, "origin_bytes_over_read", value, "ratio", lower, 1.02);
        } else {
            report.note(case, "origin_bytes_over_read", value, "ratio", lower);
        }
        let copies = super::super::median(&sent) / size;
        report.note(case, "origin_bytes_over_size", copies, "ratio", lower);
        let mib = super::super::median(&read) / float(1 << 20);
        report.note(case, "read_mib", mib, "MiB", lower);
    }
    Ok(())
}

/// Bytes that left the registry, bytes that the node that read most of them read, and bytes of the image's blobs.
fn once(always: bool) -> Result<(f64, f64, f64)> {
    let nodes = Nodes::with(&Setting {
        always,
        ..Setting::swarm(NODES)
    })?;
    nodes.convert(TAG, &[])?;
    let count = usize::from(NODES);
    let mounts = (0..count)
        .map(|node| nodes.mount(node, TAG, &[]))
        .collect::<Result<Vec<_>>>()?;
    let served = |node: usize| -> Result<f64> {
        let proxy = nodes.proxies.get(node).context("a proxy for each node")?;
        Ok(proxy.metrics()?.sum("darter_proxy_served_bytes_total", &[]))
    };
    let before = (0..count).map(served).collect::<Result<Vec<_>>>()?;
    let sent_before = sent(&nodes)?;
    let hosts: Vec<_> = (0..count)
        .map(|node| nodes.host(node).cloned())
        .collect::<Result<_>>()?;
    let points: Vec<_> = mounts.iter().map(|mounted| mounted.point().to_owned()).collect();
    together(
        &hosts,
        |index| points.get(index).cloned().context("a mount for each node"),
        |point| import(&point),
    )?;
    let mut read: f64 = 0.0;
    for (node, before) in before.iter().enumerate() {
        read = read.max(served(node)? - before);
    }
    let sent = sent(&nodes)? - sent_before;
    let size = float(nodes.blobs(TAG)?.values().sum());
    drop(mounts);
    nodes.passed();
    Ok((sent, read, size))
}

/// Bytes of the image's blobs that left the registry.
fn sent(nodes: &Nodes) -> Result<f64> {
    let (sent, blobs) = (nodes.sent()?, nodes.blobs(TAG)?);
    let of = |digest: &String| sent.get(digest).copied().unwrap_or_default();
    Ok(float(blobs.keys().map(of).sum()))
}
