//! The pull never fails because Darter failed: each of its processes is killed in the middle of a pull.

use anyhow::{Context, Result, ensure};
use darter_e2e::cluster::{Cluster, Size};

const SIZE: Size = Size {
    nodes: 4,
    origin_mbit: 200,
    node_mbit: 400,
};
/// The share of the image that has left the registry when the fault strikes.
const MIDDLE: u64 = 30;

/// With the scheduler gone the nodes use the parents that they know, and then the registry.
#[test]
fn scheduler_killed_in_mid_pull() -> Result<()> {
    let mut cluster = Cluster::with_darter(SIZE)?;
    let image = cluster.image("mid", "gzip")?;
    let mut pulls = cluster.start_fetches(&image)?;
    cluster.wait_for_progress(&image, MIDDLE, &mut pulls)?;
    cluster
        .scheduler
        .as_mut()
        .context("no scheduler")?
        .process()
        .kill()?;
    cluster.finish_pulls(pulls, &image)?;
    cluster.passed();
    Ok(())
}

/// With the seed gone another node holds the lease.
#[test]
fn seed_killed_in_mid_pull() -> Result<()> {
    let mut cluster = Cluster::with_darter(SIZE)?;
    let image = cluster.image("mid", "gzip")?;
    let mut pulls = cluster.start_fetches(&image)?;
    cluster.wait_for_progress(&image, MIDDLE, &mut pulls)?;
    cluster.seed.as_mut().context("no seed")?.process().kill()?;
    cluster.finish_pulls(pulls, &image)?;
    cluster.passed();
    Ok(())
}

/// A node that serves others dies: they go elsewhere, and its own containerd goes on at the registry.
#[test]
fn serving_peer_killed_in_mid_pull() -> Result<()> {
    let mut cluster = Cluster::with_darter(SIZE)?;
    let image = cluster.image("mid", "gzip")?;
    let mut pulls = cluster.start_fetches(&image)?;
    cluster.wait_for_progress(&image, MIDDLE, &mut pulls)?;
    let victim = cluster.wait_for_server(image.bytes() / 20)?;
    cluster
        .proxies
        .get_mut(victim)
        .context("no such proxy")?
        .process()
        .kill()?;
    cluster.finish_pulls(pulls, &image)?;
    cluster.passed();
    Ok(())
}

/// Everything of Darter dies in the middle: containerd goes on at the registry.
#[test]
fn everything_killed_in_mid_pull() -> Result<()> {
    let mut cluster = Cluster::with_darter(Size {
        origin_mbit: 500,
        ..SIZE
    })?;
    let image = cluster.image("mid", "gzip")?;
    let mut pulls = cluster.start_fetches(&image)?;
    cluster.wait_for_progress(&image, MIDDLE, &mut pulls)?;
    cluster.kill_darter()?;
    cluster.finish_pulls(pulls, &image)?;
    cluster.passed();
    Ok(())
}

/// Nothing of Darter runs: `hosts.toml` leads containerd past it.
#[test]
fn containerd_falls_through_when_darter_is_dead() -> Result<()> {
    let mut cluster = Cluster::with_darter(SIZE)?;
    let image = cluster.image("bb", "gzip")?;
    cluster.kill_darter()?;
    let sent = cluster.pull_everywhere(&image)?;
    ensure!(
        sent.payload >= 4 * image.bytes(),
        "{} bytes came from the registry",
        sent.payload
    );
    let words = cluster.node(0)?.run(&image, &["/bin/busybox", "echo", "here"])?;
    ensure!(words.trim() == "here", "the container said '{words}'");
    cluster.passed();
    Ok(())
}
