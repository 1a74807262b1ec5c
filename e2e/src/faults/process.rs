//! The node's own process dies, is restarted, or runs out of memory, while containerd pulls.

#![expect(
    clippy::disallowed_methods,
    reason = "the harness owns real sockets in namespaces of its own"
)]

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::net::TcpListener;

use super::memory::MemoryGroup;
use super::node::Node;
use super::scene::{MIB, Plan, Scene};
use super::{Effort, Report, Tally, spread};
use crate::clock::{now, pause, until};
use crate::containerd::REGISTRY;
use crate::darter::MIRROR;

/// Eight layers, as the bar says.
const LAYERS: [u64; 8] = [4 * MIB; 8];
/// Slow enough that a pull has a middle.
const MBIT: u32 = 500;
/// Memory of bar 68: far too little for what it is asked to do at the same time.
const TIGHT: u64 = 64 * MIB;

const SMALL_LAYERS: [u64; 4] = [2 * MIB; 4];
const WITH_CONTAINERD: Plan = Plan {
    nodes: 1,
    scheduler: true,
    seed: true,
    containerd: true,
    mbit: Some(MBIT),
};
/// What users are told that a frozen proxy costs.
const FROZEN_MAX: Duration = Duration::from_secs(12);
/// Until a worker is there again.
const BACK: Duration = Duration::from_secs(30);

fn supervised_with_containerd() -> Result<Scene> {
    let mut scene = Scene::prepare(WITH_CONTAINERD)?;
    scene.node(0)?.settings.supervised = true;
    scene.start_all()?;
    Ok(scene)
}

/// Bar 48: `kill -9` at ever other moments of a pull; the next one starts on what the store kept.
pub(super) fn killed(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("48 kill -9 of the proxy");
    let mut scene = Scene::start(WITH_CONTAINERD)?;
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
    tally.added_in_bounds();
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}

/// Bar 49: the proxy stands still in the middle of a pull; who watches it starts another one.
pub(super) fn frozen(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("49 SIGSTOP of the proxy");
    let mut scene = supervised_with_containerd()?;
    let plain = scene.plain_image(0, &LAYERS)?;
    for round in 0..effort.times(2, 50) {
        let image = scene.image(&LAYERS)?;
        let node = scene.node(0)?;
        let start = now();
        let mut pull = node.containerd()?.fetch(&image)?;
        // In the first half of it, so that there is something left.
        pause(plain.mul_f64(spread(round + 1) / 2.0));
        let running = pull.is_running()?;
        tally.must(running, || {
            "the pull had ended before the proxy was stopped".to_owned()
        });
        let worker = node.worker()?;
        kill_process(worker, Signal::STOP)?;
        let waited = pull.wait().map(|()| start.elapsed());
        let result = waited.and_then(|took| node.containerd()?.verify(&image).map(|()| took));
        tally.real_pull(&result.with_context(|| format!("stop {round}")), plain);
        let _ = node.containerd()?.forget(&image);
        let back = replaced(node, worker);
        tally.must(back.is_ok(), || format!("nobody took its place: {back:?}"));
    }
    tally.added_at_most(
        FROZEN_MAX,
        "a worker that answers nothing for watchdog.patience, 10 s, is replaced",
    );
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}

/// Waits until another worker serves.
fn replaced(node: &mut Node, old: Pid) -> Result<()> {
    until("another worker to be there", BACK, || {
        let new = node.worker()?;
        Ok((new != old).then_some(()))
    })?;
    node.answers(BACK)
}

/// Bar 52: the proxy is asked to end and started again, or makes room for a successor, over and over while containerd pulls;
/// and somebody else has its port. It writes `hosts.toml` itself.
pub(super) fn restarted(effort: Effort, report: &mut Report) -> Result<()> {
    let mut scene = node_with_hosts(false)?;
    let plain = scene.plain_image(0, &SMALL_LAYERS)?;
    manage_hosts(&mut scene)?;
    let mut ended = Tally::new("52 proxy restarted during pulls");
    for round in 0..effort.times(5, 500) {
        let strike = |node: &mut Node, tally: &mut Tally| {
            node.stop()?;
            let gone = !asks_proxy(node)?;
            tally.must(gone, || "hosts.toml names a proxy that has ended".to_owned());
            node.start()?;
            named(node)
        };
        pull_under(&mut scene, &mut ended, plain, round, strike)?;
    }
    ended.added_in_bounds();
    report.add(&ended);
    let mut taken = Tally::new("52 a foreign process on the mirror's port");
    for round in 0..effort.times(2, 100) {
        port_taken(&mut scene, &mut taken, plain, round)?;
    }
    taken.added_in_bounds();
    report.add(&taken);
    scene.end(ended.is_good() && taken.is_good());
    upgraded(effort, report)
}

fn upgraded(effort: Effort, report: &mut Report) -> Result<()> {
    let mut scene = node_with_hosts(true)?;
    let plain = scene.plain_image(0, &SMALL_LAYERS)?;
    manage_hosts(&mut scene)?;
    let mut tally = Tally::new("52 proxy upgraded (SIGUSR2) during pulls");
    for round in 0..effort.times(5, 500) {
        let strike = |node: &mut Node, tally: &mut Tally| {
            let old = node.worker()?;
            node.darter()?.process().signal(Signal::USR2)?;
            let there = asks_proxy(node)?;
            tally.must(there, || "hosts.toml was gone for a successor".to_owned());
            replaced(node, old)?;
            named(node)
        };
        pull_under(&mut scene, &mut tally, plain, round, strike)?;
    }
    tally.added_in_bounds();
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}

/// One pull by containerd, during which this is done again and again.
fn pull_under(
    scene: &mut Scene,
    tally: &mut Tally,
    plain: Duration,
    round: u64,
    mut strike: impl FnMut(&mut Node, &mut Tally) -> Result<()>,
) -> Result<()> {
    let image = scene.image(&SMALL_LAYERS)?;
    let node = scene.node(0)?;
    let start = now();
    let pull = node.containerd()?.fetch(&image)?;
    // Its end is seen when it comes: a strike takes longer than what is left of a pull.
    let waiting = std::thread::spawn(move || pull.wait().map(|()| start.elapsed()));
    pause(plain.mul_f64(spread(round)));
    while !waiting.is_finished() {
        strike(node, tally)?;
    }
    let waited = waiting
        .join()
        .map_err(|_| anyhow!("the wait for a pull failed"))?;
    let result = waited.and_then(|took| node.containerd()?.verify(&image).map(|()| took));
    tally.real_pull(&result.with_context(|| format!("round {round}")), plain);
    let _ = node.containerd()?.forget(&image);
    Ok(())
}

/// The proxy was killed, and before it comes back somebody else listens where it did, and says nothing.
fn port_taken(scene: &mut Scene, tally: &mut Tally, plain: Duration, round: u64) -> Result<()> {
    let node = scene.node(0)?;
    node.kill()?;
    let squatter = node.island.run(TcpListener::bind(("127.0.0.1", 4001)))??;
    let squatting = node.island.spawn(async move {
        let mut taken = Vec::new();
        while let Ok((stream, _)) = squatter.accept().await {
            taken.push(stream);
        }
    });
    let started = node.start().is_ok();
    tally.must(!started, || "it serves where somebody else listens".to_owned());
    let named = asks_proxy(node)?;
    tally.must(!named, || "hosts.toml names the foreign process".to_owned());
    let image = scene.image(&SMALL_LAYERS)?;
    let result = scene.pull_image(0, &image);
    tally.real_pull(&result.with_context(|| format!("round {round}")), plain);
    squatting.abort();
    let node = scene.node(0)?;
    let _ = node.containerd()?.forget(&image);
    // The aborted listener is dropped by its own thread.
    until("the port to be free", BACK, || {
        Ok(node.start().is_ok().then_some(()))
    })?;
    self::named(node)
}

/// A node with containerd whose proxy does not run yet.
fn node_with_hosts(supervised: bool) -> Result<Scene> {
    let mut scene = Scene::prepare(WITH_CONTAINERD)?;
    let node = scene.node(0)?;
    let root = node.containerd()?.root();
    let state = root.with_extension("hosts");
    node.settings.more = json!({ "containerd": {
        "manageHosts": true, "registries": [REGISTRY], "root": root, "stateDir": state,
    } });
    node.settings.supervised = supervised;
    Ok(scene)
}

/// Takes the harness's own entry away and starts the nodes: theirs comes.
fn manage_hosts(scene: &mut Scene) -> Result<()> {
    let url = scene.registry.url();
    scene.node(0)?.containerd()?.set_hosts(&url, &[])?;
    scene.start_all()?;
    named(scene.node(0)?)
}

/// Waits until `hosts.toml` names the proxy.
fn named(node: &mut Node) -> Result<()> {
    until("hosts.toml to name the proxy", BACK, || {
        Ok(asks_proxy(node)?.then_some(()))
    })
}

fn asks_proxy(node: &mut Node) -> Result<bool> {
    Ok(node.containerd()?.hosts()?.contains(MIRROR))
}

/// Bar 68: the kernel kills the proxy for the memory that it takes, or it lives within the limit; either way pulls are ok.
pub(super) fn out_of_memory(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("68 64 MiB of memory, or the kernel's kill");
    let mut scene = supervised_with_containerd()?;
    let plain = scene.plain_image(0, &LAYERS)?;
    let group = MemoryGroup::create(TIGHT)?;
    let node = scene.node(0)?;
    // What either of them starts is in it as well.
    group.take(node.darter()?.process().id())?;
    group.take(node.worker()?.as_raw_nonzero().get().unsigned_abs())?;
    for round in 0..effort.times(3, 50) {
        let image = scene.image(&LAYERS)?;
        let result = scene.pull_image(0, &image);
        tally.real_pull(&result.with_context(|| format!("round {round}")), plain);
        let node = scene.node(0)?;
        let _ = node.containerd()?.forget(&image);
        let back = node.answers(BACK);
        tally.must(back.is_ok(), || format!("it did not come back: {back:?}"));
    }
    let (refused, kills) = (group.refusals()?, group.kills()?);
    tally.must(refused + kills > 0, || "the limit never bound".to_owned());
    tally.note(format!("limit hit {refused} times, {kills} kills"));
    tally.added_in_bounds();
    report.add(&tally);
    scene.end(tally.is_good());
    drop(group);
    Ok(())
}
