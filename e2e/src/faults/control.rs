//! The scheduler and the other nodes are gone, frozen, or out of reach.

use std::time::Duration;

use anyhow::{Context as _, Result};
use darter_testkit::puller::Progress;
use serde_json::json;

use super::degradation::held;
use super::scene::{MIB, Plan, Scene, ended, middle};
use super::{Effort, Report, Tally};
use crate::clock::pause;

const SIZE: u64 = 16 * MIB;
const MBIT: u32 = 400;
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
        // Without links from a scheduler each node reads the rest from the registry: three times the bytes.
        tally.added_at_most(NOISE * 5);
        report.add(&tally);
    }
    Ok(())
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
    if way == Way::Frozen {
        scene
            .scheduler
            .as_mut()
            .context("no scheduler")?
            .process()
            .thaw()?;
    }
    scene.end(tally.is_good());
    Ok(())
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
        scene
            .scheduler
            .as_mut()
            .context("no scheduler")?
            .process()
            .kill()?;
        scene.seed.as_mut().context("no seed")?.kill()?;
        for end in ended(&watches)? {
            tally.pull(&end, plain);
        }
        let most = scene.registry.origin.concurrent_max();
        // The seed's own requests may have been among them when it was killed.
        tally.must(most <= 4 * CONNECTIONS + 20, || {
            format!("the registry had {most} requests at one time")
        });
        for blob in &blobs {
            let sent = scene.registry.origin.bytes_sent_for(&blob.digest);
            tally.must(sent <= 2 * SMALL, || {
                format!("{sent} bytes of {SMALL} came from the registry, for the seed and one node")
            });
        }
        scene.end(tally.is_good());
    }
    tally.added_at_most(NOISE * 3);
    report.add(&tally);
    Ok(())
}

/// Bar 72: nodes lose each other for three seconds and find each other again, or lose one packet in ten.
pub(super) fn flapping(effort: Effort, report: &mut Report) -> Result<()> {
    for (name, loss) in [
        ("72 node cut off and back every 3 s", None),
        ("72 10 % of packets between nodes lost", Some("0.10")),
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
            let blob = scene.blob(SIZE);
            let others = [
                "INPUT",
                "-p",
                "tcp",
                "-m",
                "iprange",
                "--src-range",
                "10.77.0.3-10.77.0.30",
            ];
            let drop = match loss {
                None => [&others[..], &["-j", "DROP"]].concat(),
                Some(share) => {
                    let chance = [
                        "-m",
                        "statistic",
                        "--mode",
                        "random",
                        "--probability",
                        share,
                        "-j",
                        "DROP",
                    ];
                    [&others[..], &chance].concat()
                }
            };
            let watches = scene.begin_on(&NODES, &blob)?;
            let node = scene.node(1)?;
            let mut cut = false;
            while watches.iter().any(|watch| watch.progress().outcome.is_none()) {
                let verb = if cut { "-D" } else { "-A" };
                node.iptables(&[&[verb], &drop[..]].concat())?;
                cut = !cut;
                wait_for_end(&watches, Duration::from_secs(3));
            }
            if cut {
                node.iptables(&[&["-D"], &drop[..]].concat())?;
            }
            for end in ended(&watches)? {
                tally.pull(&end, plain);
            }
        }
        tally.added_at_most(Duration::from_secs(6));
        report.add(&tally);
        scene.end(tally.is_good());
    }
    Ok(())
}

fn wait_for_end(watches: &[darter_testkit::puller::Watch], most: Duration) {
    // In vain is one of the two ends.
    let _ = crate::clock::until("pulls to end", most, || {
        let over = watches.iter().all(|watch| watch.progress().outcome.is_some());
        Ok(over.then_some(()))
    });
}
