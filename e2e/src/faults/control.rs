//! The scheduler and the other nodes are gone, frozen, or out of reach.

use std::time::Duration;

use anyhow::{Context as _, Result};
use darter_testkit::puller::{Progress, Watch};
use serde_json::json;

use super::degradation::held;
use super::scene::{MIB, Plan, Scene, ended, middle};
use super::{Effort, Report, Tally};
use crate::clock::{pause, until};
use crate::shape::{Cap, limit_upload};

const SIZE: u64 = 16 * MIB;
const MBIT: u32 = 400;
/// So that a pull has a middle where nodes give to each other.
const SLOW_MBIT: u32 = 100;
/// A node that hears nothing from a scheduler goes alone.
const ALONE_AFTER: Duration = Duration::from_millis(300);
/// How soon a scheduler that was started empty knows what nodes hold.
const KNOWN_AGAIN: Duration = Duration::from_secs(10);
const NOISE: Duration = Duration::from_secs(1);
const NODES: [usize; 3] = [0, 1, 2];

/// What happens to the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Dead,
    Frozen,
    BlackHole,
    Restarted,
    None,
}

/// Bar 69: in the middle of pulls, and for pulls that begin after it.
pub(super) fn scheduler(effort: Effort, report: &mut Report) -> Result<()> {
    for (name, way) in [
        ("69 scheduler dead", Way::Dead),
        ("69 scheduler stopped (SIGSTOP)", Way::Frozen),
        ("69 scheduler black-holed", Way::BlackHole),
        ("69 scheduler restarted empty", Way::Restarted),
        ("69 no scheduler configured", Way::None),
    ] {
        let mut tally = Tally::new(name);
        for _ in 0..effort.times(1, 66) {
            scheduler_once(way, &mut tally)?;
        }
        tally.added_in_bounds();
        report.add(&tally);
    }
    for (name, way) in [
        ("69 scheduler dead, parents known", Way::Dead),
        ("69 scheduler stopped, parents known", Way::Frozen),
    ] {
        let mut tally = Tally::new(name);
        for _ in 0..effort.times(2, 66) {
            parents_known(way, &mut tally)?;
        }
        tally.added_in_bounds();
        report.add(&tally);
    }
    Ok(())
}

/// Two nodes read what another one and the seed hold when the scheduler goes: they go on with those.
fn parents_known(way: Way, tally: &mut Tally) -> Result<()> {
    let mut scene = Scene::start(Plan {
        nodes: 3,
        scheduler: true,
        seed: true,
        mbit: Some(SLOW_MBIT),
        ..Plan::default()
    })?;
    let plain = scene.plain(&[1, 2], SIZE)?;
    let blob = scene.blob(SIZE);
    held(&scene, 0, &blob)?;
    for parent in scene.seed.iter().chain(scene.nodes.first()) {
        limit_upload(&parent.host, Cap::mbit(SLOW_MBIT))?;
    }
    let watches = scene.begin_on(&[1, 2], &blob)?;
    middle(&watches, SIZE / 4)?;
    strike(&mut scene, way)?;
    let had: u64 = watches.iter().map(|watch| watch.progress().bytes).sum();
    let before = bytes_from_peers(&mut scene)?;
    for end in ended(&watches)? {
        tally.pull(&end, plain);
    }
    let more = bytes_from_peers(&mut scene)? - before;
    let missing = 2 * SIZE - had;
    tally.must(more > 0.0, || {
        "parents that were known gave nothing any more".to_owned()
    });
    eprintln!("faults: 69: known parents gave {more} of {missing} bytes, the registry the rest");
    thaw(&mut scene, way)?;
    scene.end(tally.is_good());
    Ok(())
}

/// A process that stands still cannot be ended in order.
fn thaw(scene: &mut Scene, way: Way) -> Result<()> {
    if way != Way::Frozen {
        return Ok(());
    }
    let scheduler = scene.scheduler.as_mut().context("no scheduler")?;
    scheduler.process().thaw()
}

fn scheduler_once(way: Way, tally: &mut Tally) -> Result<()> {
    let mut scene = Scene::start(Plan {
        nodes: 3,
        scheduler: way != Way::None,
        seed: way != Way::None,
        mbit: Some(MBIT),
        ..Plan::default()
    })?;
    let plain = scene.plain(&NODES, SIZE)?;
    let known = scene.blob(SIZE);
    held(&scene, 0, &known)?;
    let blob = scene.blob(SIZE);
    let watches = scene.begin_on(&NODES, &blob)?;
    middle(&watches, SIZE / 4)?;
    strike(&mut scene, way)?;
    for end in ended(&watches)? {
        tally.pull(&end, plain);
    }
    let fresh = scene.blob(SIZE);
    for end in scene.pull_on(&NODES, &fresh)? {
        tally.pull(&end, plain);
        goes_alone(tally, &end);
    }
    if way == Way::Restarted {
        scene.start_scheduler()?;
        pause(KNOWN_AGAIN);
        let before = scene.registry.origin.bytes_sent_for(&known.digest);
        tally.pull(&scene.pull(2, &known)?, plain);
        let sent = scene.registry.origin.bytes_sent_for(&known.digest) - before;
        tally.must(sent == 0, || {
            format!("{sent} bytes of what a node holds came from the registry")
        });
    }
    for index in NODES {
        let running = scene.node(index)?.darter()?.process().is_running()?;
        tally.must(running, || format!("node {index} died"));
    }
    thaw(&mut scene, way)?;
    scene.end(tally.is_good());
    Ok(())
}

/// Bytes of pieces that nodes had of each other, and of the seed.
fn bytes_from_peers(scene: &mut Scene) -> Result<f64> {
    let mut sum = 0.0;
    for index in NODES {
        let node = scene.node(index)?;
        sum += node.metric("darter_proxy_received_bytes_total", &[("source", "peer")])?;
    }
    Ok(sum)
}

fn goes_alone(tally: &mut Tally, end: &Progress) {
    let first = end.first_byte.unwrap_or_default();
    tally.must(first <= ALONE_AFTER + NOISE, || {
        format!("the first byte came after {first:?}")
    });
}

fn strike(scene: &mut Scene, way: Way) -> Result<()> {
    match way {
        Way::None => return Ok(()),
        Way::BlackHole => {
            for node in scene.seed.iter().chain(&scene.nodes) {
                node.iptables(&["-A", "OUTPUT", "-p", "tcp", "--dport", "8002", "-j", "DROP"])?;
                node.iptables(&["-A", "INPUT", "-p", "tcp", "--sport", "8002", "-j", "DROP"])?;
            }
            return Ok(());
        }
        Way::Dead | Way::Frozen | Way::Restarted => {}
    }
    let scheduler = scene.scheduler.as_mut().context("no scheduler")?.process();
    if way == Way::Frozen {
        scheduler.freeze()
    } else {
        scheduler.kill()
    }
}

/// Bar 54: every scheduler and seed is killed while a hundred pulls run.
pub(super) fn all_killed(effort: Effort, report: &mut Report) -> Result<()> {
    const PULLS: usize = 100;
    const SMALL: u64 = 2 * MIB;
    /// Of each of the four nodes: twenty in all.
    const CONNECTIONS: u64 = 5;
    let mut tally = Tally::new("54 schedulers and seeds killed under 100 pulls");
    for _ in 0..effort.times(1, 20) {
        let mut scene = Scene::prepare(Plan {
            nodes: 4,
            scheduler: true,
            seed: true,
            mbit: Some(MBIT),
            ..Plan::default()
        })?;
        for node in &mut scene.nodes {
            let registry = json!({ "registry.test": { "connectionsMax": CONNECTIONS } });
            node.settings.more = json!({ "origin": { "registries": registry } });
        }
        scene.start_all()?;
        let plain = scene.plain(&[0, 1, 2, 3], SMALL * (PULLS as u64) / 4)?;
        let mut watches = Vec::new();
        let mut blobs = Vec::new();
        for index in 0..PULLS {
            let blob = scene.blob(SMALL);
            watches.extend(scene.begin_on(&[index % 4], &blob)?);
            blobs.push(blob);
        }
        middle(&watches, SMALL / 4)?;
        let scheduler = scene.scheduler.as_mut().context("no scheduler")?;
        scheduler.process().kill()?;
        scene.seed.as_mut().context("no seed")?.kill()?;
        scene.registry.origin.reset_counters();
        let mut handed_over = [0; 4];
        for (index, end) in ended(&watches)?.iter().enumerate() {
            tally.pull(end, plain);
            handed_over[index % 4] += u64::from(end.hand_overs > 0);
        }
        for (node, past) in scene.nodes.iter().zip(handed_over) {
            let source = node.host.address().into();
            let most = scene.registry.origin.concurrent_max_of(source);
            // Clients that were handed over ask from the same address.
            tally.must(most <= CONNECTIONS + past, || {
                format!("{} had {most} requests at one time", node.host.name())
            });
            for blob in &blobs {
                let sent = scene.registry.origin.bytes_sent_to(source, &blob.digest);
                tally.must(sent <= SMALL, || {
                    format!("{} was sent {sent} bytes of {SMALL}", node.host.name())
                });
            }
        }
        scene.end(tally.is_good());
    }
    tally.added_in_bounds();
    report.add(&tally);
    Ok(())
}

/// Bar 72: nodes lose each other for three seconds and find each other again, or lose packets.
pub(super) fn flapping(effort: Effort, report: &mut Report) -> Result<()> {
    for (name, loss) in [
        ("72 node cut off and back every 3 s", None),
        ("72 5 % of packets between nodes lost", Some("0.05")),
        ("72 10 % of packets between nodes lost", Some("0.10")),
        ("72 20 % of packets between nodes lost", Some("0.20")),
    ] {
        let mut tally = Tally::new(name);
        let mut scene = Scene::start(Plan {
            nodes: 3,
            scheduler: true,
            seed: true,
            mbit: Some(100),
            ..Plan::default()
        })?;
        let plain = scene.plain(&NODES, SIZE)?;
        for _ in 0..effort.times(2, 17) {
            flapped(&mut scene, &mut tally, plain, loss)?;
        }
        tally.added_in_bounds();
        report.add(&tally);
        scene.end(tally.is_good());
    }
    Ok(())
}

/// The rule that drops what a node is sent by others, or a share of it.
fn dropping(loss: Option<&'static str>) -> Vec<&'static str> {
    let mut rule = vec!["INPUT", "-p", "tcp", "-m", "iprange"];
    rule.extend(["--src-range", "10.77.0.3-10.77.0.30"]);
    if let Some(share) = loss {
        rule.extend(["-m", "statistic", "--mode", "random", "--probability", share]);
    }
    rule.extend(["-j", "DROP"]);
    rule
}

/// One blob on all nodes; in the middle of it one node is cut off, again and again.
fn flapped(scene: &mut Scene, tally: &mut Tally, plain: Duration, loss: Option<&'static str>) -> Result<()> {
    let blob = scene.blob(SIZE);
    let watches = scene.begin_on(&NODES, &blob)?;
    let victim = watches.get(1).context("no second pull")?;
    middle(std::slice::from_ref(victim), SIZE / 8)?;
    let rule = dropping(loss);
    let node = scene.node(1)?;
    let mut cut = false;
    let mut dropped = 0;
    while watches.iter().any(|watch| watch.progress().outcome.is_none()) {
        let verb = if cut { "-D" } else { "-A" };
        if cut {
            dropped += node.packets_dropped()?;
        }
        node.iptables(&[&[verb], &rule[..]].concat())?;
        cut = !cut;
        wait_for_end(&watches, Duration::from_secs(3));
    }
    if cut {
        dropped += node.packets_dropped()?;
        node.iptables(&[&["-D"], &rule[..]].concat())?;
    }
    tally.must(dropped > 0, || {
        "no packet was lost in the middle of it".to_owned()
    });
    for end in ended(&watches)? {
        tally.pull(&end, plain);
    }
    Ok(())
}

fn wait_for_end(watches: &[Watch], most: Duration) {
    // In vain is one of the two ends.
    let _ = until("pulls to end", most, || {
        let over = watches.iter().all(|watch| watch.progress().outcome.is_some());
        Ok(over.then_some(()))
    });
}
