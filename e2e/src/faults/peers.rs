//! Other nodes lie, say nothing, or cannot be reached.

use std::time::Duration;

use anyhow::{Context as _, Result};
use darter_testkit::puller::Progress;

use super::degradation::held;
use super::liar::{CLOSED_WITHIN, Lie};
use super::node::Node;
use super::scene::{Blob, MIB, Plan, Scene};
use super::{Effort, Report, Tally};
use crate::clock::until;

/// What a time may be above what the bar says, on a machine that does other things as well.
const NOISE: Duration = Duration::from_secs(1);
/// No gap in a client's stream is longer.
const GAP_MAX: Duration = Duration::from_secs(5);
const SIZE: u64 = 16 * MIB;
/// Bar 4 in one process.
const FRAMES: u64 = 1_000_000;

/// Peers behind wires, and one node more, which pulls last.
fn scene(peers: u8) -> Result<Scene> {
    let mut scene = Scene::prepare(Plan {
        nodes: peers + 1,
        scheduler: true,
        mbit: Some(500),
        ..Plan::default()
    })?;
    for index in 0..peers {
        scene.node(usize::from(index))?.settings.wire = true;
    }
    scene.start_all()?;
    Ok(scene)
}

/// A blob that all nodes hold but the last.
fn held_by_all(scene: &mut Scene, length: u64) -> Result<Blob> {
    let blob = scene.blob(length);
    for index in 0..scene.nodes.len() - 1 {
        held(scene, index, &blob)?;
    }
    Ok(blob)
}

/// Pulls on the last node.
fn late(scene: &Scene, blob: &Blob) -> Result<Progress> {
    scene.pull(scene.nodes.len() - 1, blob)
}

fn wrong_pieces(scene: &mut Scene) -> Result<f64> {
    let node = scene.nodes.last_mut().context("no node")?;
    node.metric("darter_proxy_parent_failures_total", &[("reason", "wrong_bytes")])
}

/// Gives these nodes other names: whoever was blocked is another host then, with the same store.
fn rename(scene: &mut Scene, nodes: std::ops::Range<usize>, round: u64) -> Result<()> {
    for index in nodes {
        let node = scene.node(index)?;
        node.liar.set(Lie::None);
        node.settings.name = format!("n{index}-{round}");
        node.start()?;
    }
    scene.settle()
}

/// Bar 1: one of three peers flips a bit in each piece. It is found out by one piece, and blocked.
pub(super) fn one_flips(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("1 one of three peers flips bits");
    let mut scene = scene(3)?;
    let plain = scene.plain(&[3], SIZE)?;
    let blob = held_by_all(&mut scene, SIZE)?;
    let clean = late(&scene, &blob)?.took.unwrap_or_default();
    for round in 0..effort.times(3, 200) {
        rename(&mut scene, 1..2, round)?;
        let (first, second) = (held_by_all(&mut scene, SIZE)?, held_by_all(&mut scene, SIZE)?);
        let before = wrong_pieces(&mut scene)?;
        let told = scene.node(1)?.liar.told();
        scene.node(1)?.liar.set(Lie::Flip);
        let end = late(&scene, &first)?;
        tally.pull(&end, plain);
        let limit = clean.mul_f64(1.2) + NOISE;
        tally.must(end.took.unwrap_or_default() <= limit, || {
            format!("it took {:?} with a liar and {clean:?} without", end.took)
        });
        let bad = wrong_pieces(&mut scene)? - before;
        tally.must(bad <= 1.0, || {
            format!("{bad} bad pieces were taken from one peer")
        });
        let was_asked = scene.node(1)?.liar.told() > told;
        // It may not have been chosen at all: then there is nobody to block.
        if was_asked && bad > 0.0 {
            let requests = scene.node(1)?.liar.requests();
            tally.pull(&late(&scene, &second)?, plain);
            let more = scene.node(1)?.liar.requests() - requests;
            tally.must(more == 0, || {
                format!("a peer that lied was asked {more} times for another content")
            });
        }
    }
    let found = wrong_pieces(&mut scene)?;
    tally.must(found >= 1.0, || "no lie was ever found".to_owned());
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}

/// Bar 2: all peers flip bits; the registry has it.
pub(super) fn all_flip(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("2 all four peers flip bits");
    let mut scene = scene(4)?;
    let size = 64 * MIB;
    let plain = scene.plain(&[4], size)?;
    for round in 0..effort.times(2, 200) {
        rename(&mut scene, 0..4, round)?;
        let blob = held_by_all(&mut scene, size)?;
        for index in 0..4 {
            scene.node(index)?.liar.set(Lie::Flip);
        }
        let before = scene.registry.origin.bytes_sent_for(&blob.digest);
        let end = late(&scene, &blob)?;
        tally.pull(&end, plain);
        let sent = scene.registry.origin.bytes_sent_for(&blob.digest) - before;
        tally.must(sent * 100 <= size * 105, || {
            format!("the registry sent {sent} bytes for {size}")
        });
    }
    tally.added_in_bounds();
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}

/// Bar 4: answers that break the protocol in each way, and a million mutated frames.
pub(super) fn nonsense(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("4 frames that break the protocol");
    let frames = effort.times(FRAMES / 10, FRAMES);
    super::limits::mutated_frames(frames);
    let mut scene = scene(1)?;
    let size = 4 * MIB;
    let plain = scene.plain(&[1], size)?;
    let lies = [
        Lie::OtherRange,
        Lie::Unasked,
        Lie::Short,
        Lie::Long,
        Lie::Twice,
        Lie::Huge,
        Lie::Nonsense("have 4294967295+4294967295"),
        Lie::Nonsense("have 0+1048577"),
        Lie::Nonsense("inline 4294967296"),
        Lie::Nonsense("length 18446744073709551615"),
        Lie::Nonsense("\u{1}\u{2}"),
    ];
    for round in 0..effort.times(1, 20) {
        for (index, lie) in (round * 100..).zip(lies) {
            rename(&mut scene, 0..1, index)?;
            let blob = held_by_all(&mut scene, size)?;
            let told = scene.node(0)?.liar.told();
            scene.node(0)?.liar.set(lie);
            tally.pull(&late(&scene, &blob)?, plain);
            let was_told = scene.node(0)?.liar.told() > told;
            tally.must(was_told, || format!("{lie:?} was not tried"));
            closed(scene.node(0)?, &mut tally, lie);
            let running = scene.node(1)?.darter()?.process().is_running()?;
            tally.must(running, || format!("the proxy died of {lie:?}"));
        }
    }
    tally.added_in_bounds();
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}

/// Every connection on which this was told must be closed by who heard it.
fn closed(node: &Node, tally: &mut Tally, lie: Lie) {
    let limit = CLOSED_WITHIN + NOISE;
    let over = until("connections to end", limit, || {
        let (closed, kept) = node.liar.closed_and_kept();
        Ok((closed + kept >= node.liar.told()).then_some(kept))
    });
    tally.must(matches!(over, Ok(0)), || {
        format!("after {lie:?} a connection was kept: {over:?}")
    });
}

/// Bar 41a: one of two parents accepts and stays silent, stops in the middle, sends a byte a second, or is cut off.
pub(super) fn silent_parent(effort: Effort, report: &mut Report) -> Result<()> {
    let mut scene = scene(2)?;
    let plain = scene.plain(&[2], SIZE)?;
    let blob = held_by_all(&mut scene, SIZE)?;
    let clean = late(&scene, &blob)?.took.unwrap_or_default();
    let limit = clean.mul_f64(1.3) + Duration::from_secs(2) + NOISE;
    let mut good = true;
    for (name, lie) in [
        ("41a a parent accepts and says nothing", Some(Lie::Mute)),
        ("41a a parent stops in the middle", Some(Lie::Stall)),
        ("41a a parent sends a byte a second", Some(Lie::Drip)),
        ("41a a parent's connections hang half open", None),
    ] {
        let mut tally = Tally::new(name);
        for _ in 0..effort.times(2, 50) {
            let blob = held_by_all(&mut scene, SIZE)?;
            let end = match lie {
                Some(lie) => {
                    scene.node(0)?.liar.set(lie);
                    late(&scene, &blob)?
                }
                None => half_open(&mut scene, &blob)?,
            };
            scene.node(0)?.liar.set(Lie::None);
            tally.pull(&end, plain);
            tally.must(end.longest_gap <= GAP_MAX, || {
                format!("the client waited {:?} for a byte", end.longest_gap)
            });
            tally.must(end.took.unwrap_or_default() <= limit, || {
                format!("it took {:?}, and {clean:?} with good parents", end.took)
            });
            // Who was left out for a while is to be a parent again in the next round.
            rename_quietly(&mut scene)?;
        }
        good &= tally.is_good();
        report.add(&tally);
    }
    scene.end(good);
    Ok(())
}

fn rename_quietly(scene: &mut Scene) -> Result<()> {
    let made = u64::from(scene.node(0)?.darter()?.process().id());
    rename(scene, 0..1, made)
}

/// Packets of the first parent are dropped as soon as the pull has begun.
fn half_open(scene: &mut Scene, blob: &Blob) -> Result<Progress> {
    let last = scene.nodes.len() - 1;
    let watches = scene.begin_on(&[last], blob)?;
    super::scene::middle(&watches, 1)?;
    let drop = ["INPUT", "-p", "tcp", "--dport", "4100", "-j", "DROP"];
    scene.node(0)?.iptables(&[&["-A"], &drop[..]].concat())?;
    let ends = super::scene::ended(&watches);
    scene.node(0)?.iptables(&[&["-D"], &drop[..]].concat())?;
    ends?.pop().context("one pull, one end")
}

/// Bar 43: nothing that is sent to any peer arrives.
pub(super) fn black_holes(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("43 all peers are black holes");
    let mut scene = scene(3)?;
    let plain = scene.plain(&[3], SIZE)?;
    for _ in 0..effort.times(3, 200) {
        let blob = held_by_all(&mut scene, SIZE)?;
        let drop = [
            "INPUT",
            "-p",
            "tcp",
            "--dport",
            "4000:4100",
            "-s",
            "10.77.0.0/24",
            "-j",
            "DROP",
        ];
        for index in 0..3 {
            scene.node(index)?.iptables(&[&["-A"], &drop[..]].concat())?;
        }
        let end = late(&scene, &blob)?;
        for index in 0..3 {
            scene.node(index)?.iptables(&[&["-D"], &drop[..]].concat())?;
        }
        tally.pull(&end, plain);
        let first = end.first_byte.unwrap_or_default();
        tally.must(first <= Duration::from_secs(1) + NOISE, || {
            format!("the first byte came after {first:?}")
        });
        rename(&mut scene, 0..3, scene_made(&blob))?;
    }
    tally.added_in_bounds();
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}

/// A number of its own for each blob.
fn scene_made(blob: &Blob) -> u64 {
    blob.digest.bytes().fold(0, |sum: u64, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(byte))
    }) % 1_000_000
}
