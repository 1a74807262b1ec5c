//! The node's own process dies, is restarted, or runs out of memory, while containerd pulls.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::scene::{MIB, Plan, Scene};
use super::{Effort, Report, Tally, spread};
use crate::clock::{now, pause};

/// A killed proxy costs a pull no more than this, with what a shared machine adds.
const ADDED_MAX: Duration = Duration::from_millis(1500);
/// Eight layers, as the bar says.
const LAYERS: [u64; 8] = [4 * MIB; 8];
/// Slow enough that a pull has a middle.
const MBIT: u32 = 500;
/// Memory of bar 68: far too little for what it is asked to do at the same time.
const TIGHT: u64 = 64 * MIB;

fn node_with_containerd() -> Result<Scene> {
    Scene::start(Plan {
        nodes: 1,
        scheduler: true,
        seed: true,
        containerd: true,
        mbit: Some(MBIT),
    })
}

/// Bar 48: `kill -9` at ever other moments of a pull; the next one starts on what the store kept.
pub(super) fn killed(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("48 kill -9 of the proxy");
    let mut scene = node_with_containerd()?;
    let plain = scene.plain_image(0, &LAYERS)?;
    for round in 0..effort.times(8, 500) {
        let image = scene.image(&LAYERS)?;
        let node = scene.node(0)?;
        let start = now();
        let pull = node.containerd()?.fetch(&image)?;
        pause(plain.mul_f64(spread(round)));
        node.kill()?;
        let waited = pull.wait().map(|()| start.elapsed());
        let result = waited.and_then(|took| node.containerd()?.verify(&image).map(|()| took));
        tally.real_pull(&result.with_context(|| format!("kill {round}")), plain);
        // What failed is not there to be forgotten.
        let _ = node.containerd()?.forget(&image);
        node.start()?;
    }
    tally.added_at_most(ADDED_MAX);
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}

/// Bar 52: the proxy is asked to end, and started again, over and over while containerd pulls.
pub(super) fn restarted(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("52 proxy restarted during pulls");
    let mut scene = node_with_containerd()?;
    let layers = [2 * MIB; 4];
    let plain = scene.plain_image(0, &layers)?;
    for round in 0..effort.times(10, 1000) {
        let image = scene.image(&layers)?;
        let node = scene.node(0)?;
        let start = now();
        let mut pull = node.containerd()?.fetch(&image)?;
        pause(plain.mul_f64(spread(round)));
        while pull.is_running()? {
            node.stop()?;
            node.start()?;
        }
        let waited = pull.wait().map(|()| start.elapsed());
        let result = waited.and_then(|took| node.containerd()?.verify(&image).map(|()| took));
        // How long it takes to see the end of the pull is the restart's time, not the pull's.
        tally.real_pull(&result.with_context(|| format!("restart {round}")), plain);
        let _ = node.containerd()?.forget(&image);
    }
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}

/// Bar 68: the kernel kills the proxy for the memory that it takes, or it lives within the limit; either way pulls are ok.
pub(super) fn out_of_memory(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("68 64 MiB of memory, or the kernel's kill");
    let mut scene = node_with_containerd()?;
    let plain = scene.plain_image(0, &LAYERS)?;
    for round in 0..effort.times(3, 50) {
        let group = super::limits::MemoryGroup::create(TIGHT)?;
        let image = scene.image(&LAYERS)?;
        group.take(scene.node(0)?.darter()?.process().id())?;
        let result = scene.pull_image(0, &image);
        tally.real_pull(&result.with_context(|| format!("round {round}")), plain);
        let node = scene.node(0)?;
        let _ = node.containerd()?.forget(&image);
        node.darter = None;
        node.start()?;
    }
    tally.added_at_most(Duration::from_secs(5));
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}
