//! What the proxy reads from fails in the middle of a body: it hands the client over, by FIN and then 503.

use anyhow::{Context as _, Result};
use darter_testkit::origin::{CutBy, Fault, FaultId, Match, Origin, When};

use super::liar::Lie;
use super::node::Node;
use super::scene::{Blob, MIB, Plan, Scene};
use super::{Effort, Report, Tally, part_of};
use crate::command::output;

const SIZE: u64 = 2 * MIB;
const PIECE: u64 = 256 * 1024;

/// Bar 50: the registry, or the one peer, breaks off at every piece border and at places between, and does not come back.
pub(super) fn source_fails(effort: Effort, report: &mut Report) -> Result<()> {
    registry_fails(effort, report)?;
    peer_fails(effort, report)
}

/// Borders of pieces, a byte before and behind them, and places between.
fn places(effort: Effort) -> Vec<u64> {
    let mut places = Vec::new();
    for border in 1..SIZE / PIECE {
        places.extend([border * PIECE - 1, border * PIECE, border * PIECE + 1]);
    }
    let all = effort.times(6, 200);
    places.extend((1..=all).map(|round| 1 + part_of(SIZE - 2, round)));
    if all < 200 {
        places.into_iter().step_by(3).collect()
    } else {
        places
    }
}

fn registry_fails(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("50 the registry breaks off for good");
    let mut scene = Scene::prepare(Plan {
        nodes: 1,
        containerd: true,
        ..Plan::default()
    })?;
    let broken = scene.add_other()?;
    scene.node(0)?.settings.registry = broken;
    scene.start_all()?;
    count_resets(scene.node(0)?)?;
    let plain = scene.plain(&[0], SIZE)?;
    let plain_image = scene.plain_image(0, &[SIZE])?;
    for (round, place) in places(effort).into_iter().enumerate() {
        if round % 4 == 0 {
            let image = scene.image(&[SIZE])?;
            let layer = image.layers.first().context("an image has a layer")?;
            break_off(&scene.other()?.origin, &layer.digest, place);
            let result = scene.pull_image(0, &image);
            tally.real_pull(&result.with_context(|| format!("at {place}")), plain_image);
            let _ = scene.node(0)?.containerd()?.forget(&image);
            continue;
        }
        let blob = scene.blob(SIZE);
        let cut = break_off(&scene.other()?.origin, &blob.digest, place);
        let end = scene.pull(0, &blob)?;
        tally.pull(&end, plain);
        tally.must(scene.other()?.origin.fired(cut) == 1, || {
            format!("the registry did not break off at {place}")
        });
        tally.must(
            end.hand_overs >= 1 && end.refusals.iter().all(|status| *status == 503),
            || format!("at {place} the client was not handed over by 503: {end:?}"),
        );
    }
    finish(tally, scene, 0, report)
}

/// After `place` bytes nothing of it is to be had there.
fn break_off(origin: &Origin, digest: &str, place: u64) -> FaultId {
    let what = Match::digest(digest).get();
    let by = CutBy::Fin;
    let cut = origin.inject(what.clone(), When::Nth(1), Fault::Cut { at: place, by });
    origin.inject(what, When::After(1), Fault::status(503));
    cut
}

fn peer_fails(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("50 the only peer breaks off for good");
    let mut scene = Scene::prepare(Plan {
        nodes: 2,
        scheduler: true,
        ..Plan::default()
    })?;
    let broken = scene.add_other()?;
    scene.node(0)?.settings.wire = true;
    scene.node(1)?.settings.registry = broken;
    scene.start_all()?;
    count_resets(scene.node(1)?)?;
    let plain = scene.plain(&[1], SIZE)?;
    for place in places(effort) {
        let blob = scene.blob(SIZE);
        held(&scene, 0, &blob)?;
        let nothing = Match::digest(&blob.digest).get();
        scene
            .other()?
            .origin
            .inject(nothing, When::Always, Fault::status(503));
        scene.node(0)?.liar.set(Lie::Budget(place));
        let end = scene.pull(1, &blob)?;
        tally.pull(&end, plain);
        scene.node(0)?.liar.set(Lie::None);
    }
    finish(tally, scene, 1, report)
}

/// Lets a node have a blob.
pub(super) fn held(scene: &Scene, node: usize, blob: &Blob) -> Result<()> {
    let end = scene.pull(node, blob)?;
    anyhow::ensure!(
        end.bytes == blob.content.len() && end.hand_overs == 0,
        "a pull before any fault: {end:?}"
    );
    Ok(())
}

fn finish(mut tally: Tally, mut scene: Scene, node: usize, report: &mut Report) -> Result<()> {
    let resets = resets(scene.node(node)?)?;
    tally.must(resets == 0, || format!("{resets} resets left the mirror's port"));
    tally.added_in_bounds();
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}

/// The kernel counts every reset that leaves the mirror's port from now on.
pub(super) fn count_resets(node: &Node) -> Result<()> {
    node.iptables(&[
        "-A",
        "OUTPUT",
        "-p",
        "tcp",
        "--sport",
        "4001",
        "--tcp-flags",
        "RST",
        "RST",
    ])
}

/// Resets since [`count_resets`].
pub(super) fn resets(node: &Node) -> Result<u64> {
    let list = output(node.host.command("iptables").args(["--wait", "-nvxL", "OUTPUT"]))?;
    let rule = list
        .lines()
        .find(|line| line.contains("spt:4001"))
        .context("the counter of resets is gone")?;
    let count = rule.split_whitespace().next().context("no count")?;
    Ok(count.parse()?)
}
