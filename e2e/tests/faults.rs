//! The pull never fails because Darter failed: each of its processes is killed in the middle of a pull.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use darter_e2e::clock::pause;
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

/// The node's own proxy is killed at ever other moments of a pull, and started again on what its store kept.
/// `DARTER_E2E_KILLS` sets how often.
#[test]
fn proxy_killed_again_and_again() -> Result<()> {
    let kills = std::env::var("DARTER_E2E_KILLS").map_or(Ok(6), |text| text.parse::<u32>())?;
    let mut cluster = Cluster::with_darter(Size {
        nodes: 1,
        origin_mbit: 500,
        node_mbit: 500,
    })?;
    let image = cluster.image("mid", "gzip")?;
    for round in 0..kills {
        if round > 0 {
            cluster.empty_containerd(0, round as usize)?;
        }
        let pulls = cluster.start_fetches(&image)?;
        // Ever other moments, the same in every run: multiples of the golden ratio spread evenly.
        let moment = f64::from(round) * 0.618_034 % 1.0;
        let proxy = cluster.proxies.first_mut().context("no proxy")?.process();
        pause(Duration::from_secs_f64(0.05 + 1.5 * moment));
        proxy.kill()?;
        cluster
            .finish_pulls(pulls, &image)
            .with_context(|| format!("kill {round}"))?;
        cluster.restart_proxy(0)?;
    }
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
