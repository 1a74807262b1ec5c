//! The registry is slow, refuses, breaks off or is gone; and everybody comes at once.

use std::time::Duration;

use anyhow::Result;
use darter_testkit::origin::{CutBy, Fault, Match, When};
use darter_testkit::puller::Watch;
use http::Method;

use super::memory::resident_peak;
use super::scene::{Blob, MIB, Plan, Scene, ended};
use super::{Effort, Report, Tally, part_of};
use crate::clock::until;

const CLIENTS: u64 = 1000;
const HERD_SIZE: u64 = 8 * MIB;
const RESIDENT_MAX: u64 = 256 * MIB;
/// Of the scene of bar 59.
const SEEDS: u64 = 1;
pub(super) const SIZE: u64 = 2 * MIB;
const PIECE: u64 = 256 * 1024;
/// `origin.silenceTimeout` as it comes, with what it takes to go on.
const SILENCE: Duration = Duration::from_secs(5);

/// Bar 58: a thousand clients of one node want one cold blob; and the same when the one that leads dies.
pub(super) fn herd(effort: Effort, report: &mut Report) -> Result<()> {
    let mut scene = Scene::start(Plan {
        nodes: 1,
        ..Plan::default()
    })?;
    let mut good = true;
    for (name, dies) in [
        ("58 1,000 clients, one cold blob", false),
        ("58 1,000 clients, the leader dies", true),
    ] {
        let mut tally = Tally::new(name);
        for _ in 0..effort.times(1, 20) {
            let plain = herd_past_darter(&mut scene)?;
            let blob = scene.blob(HERD_SIZE);
            if dies {
                lead_and_die(&mut scene, &blob)?;
            }
            let watches = run_herd(&mut scene, &blob, CLIENTS, true)?;
            let mut past = 0;
            for end in ended(&watches)? {
                tally.pull(&end, plain);
                past += u64::from(end.hand_overs > 0);
            }
            tally.must(past == 0, || format!("{past} of {CLIENTS} went to the registry"));
            let gets = scene.registry.origin.requests_for(&Method::GET, &blob.digest);
            let allowed = 1 + u64::from(dies);
            tally.must(gets <= allowed, || {
                format!("the registry got {gets} requests for the blob, not {allowed}")
            });
            let sent = scene.registry.origin.bytes_sent_for(&blob.digest);
            // The piece that the leader's request was in when it was given up is fetched anew.
            let again = if dies { PIECE } else { 0 };
            tally.must(sent * 100 <= HERD_SIZE * 102 + again * 100, || {
                format!("the registry sent {sent} bytes of {HERD_SIZE}")
            });
        }
        let peak = resident_peak(scene.node(0)?.darter()?.process().id())?;
        tally.must(peak <= RESIDENT_MAX, || {
            format!("the proxy took {} MiB", peak / MIB)
        });
        tally.added_in_bounds();
        good &= tally.is_good();
        report.add(&tally);
    }
    scene.end(good);
    Ok(())
}

/// How long the last of as many clients takes that ask the registry itself.
fn herd_past_darter(scene: &mut Scene) -> Result<Duration> {
    let blob = scene.blob(HERD_SIZE);
    let ends = ended(&run_herd(scene, &blob, CLIENTS, false)?)?;
    let longest = ends.iter().filter_map(|end| end.took).max();
    Ok(longest.unwrap_or_default())
}

fn run_herd(scene: &mut Scene, blob: &Blob, clients: u64, mirrored: bool) -> Result<Vec<Watch>> {
    let mut errand = scene.errand(blob);
    if !mirrored {
        errand.mirror = None;
    }
    let node = scene.node(0)?;
    Ok((0..clients).map(|_| node.begin(errand.clone())).collect())
}

/// The first client begins and is gone, and so is the connection to the registry after a third of the blob.
fn lead_and_die(scene: &mut Scene, blob: &Blob) -> Result<()> {
    let what = Match::digest(&blob.digest).get();
    let cut = Fault::Cut {
        at: HERD_SIZE / 3,
        by: CutBy::Fin,
    };
    scene.registry.origin.inject(what, When::Nth(1), cut);
    let errand = scene.errand(blob);
    let node = scene.node(0)?;
    let watch = Watch::default();
    let own = watch.clone();
    let leader = node.island.spawn(async move {
        darter_testkit::puller::pull(&darter_testkit::puller::Tcp, &errand, &own).await;
    });
    until("the leader to begin", Duration::from_secs(30), || {
        Ok((watch.progress().bytes > 0).then_some(()))
    })?;
    leader.abort();
    Ok(())
}

/// Bar 59: many nodes want one cold blob at the same moment.
pub(super) fn herd_of_nodes(effort: Effort, report: &mut Report) -> Result<()> {
    let nodes = u8::try_from(effort.times(12, 50))?;
    let mut tally = Tally::new(&format!("59 {nodes} nodes, one cold blob"));
    let mut scene = Scene::start(Plan {
        nodes,
        scheduler: true,
        seed: true,
        mbit: Some(500),
        ..Plan::default()
    })?;
    let all: Vec<usize> = (0..usize::from(nodes)).collect();
    let plain = scene.plain(&all, HERD_SIZE)?;
    for _ in 0..effort.times(3, 20) {
        let blob = scene.blob(HERD_SIZE);
        for end in scene.pull_on(&all, &blob)? {
            tally.pull(&end, plain);
        }
        let gets = scene.registry.origin.requests_for(&Method::GET, &blob.digest);
        let sent = scene.registry.origin.bytes_sent_for(&blob.digest);
        tally.must(gets <= SEEDS, || {
            format!("{gets} requests and {sent} bytes of {HERD_SIZE} for a blob and {SEEDS} seed")
        });
    }
    tally.added_in_bounds();
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}

/// Bar 60: three in ten answers of the registry are refusals.
pub(super) fn refusals(effort: Effort, report: &mut Report) -> Result<()> {
    let mut scene = Scene::start(Plan {
        nodes: 1,
        ..Plan::default()
    })?;
    let plain = scene.plain(&[0], SIZE)?;
    let mut good = true;
    for (name, fault, retry_after) in [
        ("60 500 for 30 % of requests", Fault::status(500), Duration::ZERO),
        (
            "60 429, Retry-After 1 s, for 30 %",
            Fault::too_many_requests(1),
            Duration::from_secs(1),
        ),
    ] {
        let mut tally = Tally::new(name);
        let origin = scene.registry.origin.clone();
        origin.seed(60);
        let pulls = effort.times(20, 200);
        for _ in 0..pulls {
            let blob = scene.blob(SIZE);
            let what = Match::digest(&blob.digest).get();
            let injected = origin.inject(what, When::Percent(30), fault.clone());
            let end = scene.pull(0, &blob)?;
            let (gets, refused) = (
                origin.requests_for(&Method::GET, &blob.digest),
                origin.fired(injected),
            );
            // Who asks without Darter, and obeys, waits as often.
            let told_to_wait = retry_after.saturating_mul(u32::try_from(refused)?);
            tally.pull(&end, plain + told_to_wait);
            tally.must(gets <= refused + 1, || {
                format!("{gets} requests for one blob, of which {refused} were refused")
            });
            origin.heal(injected);
        }
        if !retry_after.is_zero() {
            tally.note("against clients that obey Retry-After".to_owned());
        }
        tally.added_in_bounds();
        good &= tally.is_good();
        report.add(&tally);
    }
    scene.end(good);
    Ok(())
}

/// Bar 61: the registry breaks off at places everywhere, drips, or falls silent in the middle.
pub(super) fn cuts(effort: Effort, report: &mut Report) -> Result<()> {
    let mut scene = Scene::start(Plan {
        nodes: 1,
        ..Plan::default()
    })?;
    let mut good = true;
    let mut tally = Tally::new("61 registry breaks off at byte n");
    for round in 0..effort.times(20, 200) {
        let by = if round % 2 == 0 { CutBy::Fin } else { CutBy::Rst };
        let cut = Fault::Cut {
            at: part_of(SIZE, round),
            by,
        };
        // A client of its own forgives no reset.
        let plain = match by {
            CutBy::Fin => plain_under(&mut scene, &[(When::Nth(1), cut.clone())])?,
            CutBy::Rst => scene.plain(&[0], SIZE)?,
        };
        one(&mut scene, &mut tally, SIZE, cut, plain)?;
    }
    let plain = scene.plain(&[0], SIZE)?;
    tally.added_in_bounds();
    good &= tally.is_good();
    report.add(&tally);

    let mut tally = Tally::new("61 registry falls silent at byte n");
    for round in 0..effort.times(1, 20) {
        let at = part_of(SIZE, round + 1);
        one(&mut scene, &mut tally, SIZE, Fault::Stall { at }, plain)?;
    }
    tally.added_at_most(
        SILENCE,
        "origin.silenceTimeout; without Darter such a pull hangs until its client gives up",
    );
    good &= tally.is_good();
    report.add(&tally);

    let mut tally = Tally::new("61 registry drips 10 KiB/s");
    let small = 60_000;
    let what = Match::any().get();
    let bytes_per_second = 10 * 1024;
    let drip = Fault::Drip { bytes_per_second };
    let injected = scene.registry.origin.inject(what, When::Always, drip);
    let plain = scene.plain(&[0], small)?;
    for _ in 0..effort.times(1, 20) {
        let blob = scene.blob(small);
        tally.pull(&scene.pull(0, &blob)?, plain);
    }
    scene.registry.origin.heal(injected);
    tally.added_in_bounds();
    good &= tally.is_good();
    report.add(&tally);
    scene.end(good);
    Ok(())
}

/// What a pull without Darter takes from a registry that does this to it.
pub(super) fn plain_under(scene: &mut Scene, faults: &[(When, Fault)]) -> Result<Duration> {
    let blob = scene.blob(SIZE);
    let origin = scene.registry.origin.clone();
    let what = Match::digest(&blob.digest).get();
    let injected: Vec<_> = faults
        .iter()
        .map(|(when, fault)| origin.inject(what.clone(), *when, fault.clone()))
        .collect();
    let mut errand = scene.errand(&blob);
    errand.mirror = None;
    let watch = scene.node(0)?.begin(errand);
    let ends = ended(&[watch])?;
    for id in injected {
        origin.heal(id);
    }
    let whole = ends.iter().all(|end| end.bytes == SIZE && end.wrong_bytes == 0);
    anyhow::ensure!(whole, "a pull without Darter failed: {ends:?}");
    Ok(ends.iter().filter_map(|end| end.took).max().unwrap_or_default())
}

/// One blob whose first answer goes wrong; no more than a twentieth is fetched twice.
fn one(scene: &mut Scene, tally: &mut Tally, size: u64, fault: Fault, plain: Duration) -> Result<()> {
    let blob = scene.blob(size);
    let what = Match::digest(&blob.digest).get();
    let origin = scene.registry.origin.clone();
    let injected = origin.inject(what, When::Nth(1), fault.clone());
    let end = scene.pull(0, &blob)?;
    tally.pull(&end, plain);
    let fired = origin.fired(injected);
    tally.must(fired == 1, || format!("{fault:?} did not happen"));
    let sent = origin.bytes_sent_for(&blob.digest);
    // What the socket took and was lost by a reset was sent, too.
    let lost = if matches!(fault, Fault::Cut { by: CutBy::Rst, .. }) {
        size
    } else {
        0
    };
    tally.must(sent * 100 <= size * 105 + lost * 100, || {
        format!("the registry sent {sent} bytes for {size} after {fault:?}")
    });
    Ok(())
}

/// Bar 63: the registry is gone; what the node has, and anybody may read, is served: blobs, and to containerd an image.
pub(super) fn down(effort: Effort, report: &mut Report) -> Result<()> {
    let mut scene = Scene::start(Plan {
        nodes: 1,
        containerd: true,
        ..Plan::default()
    })?;
    let plain = scene.plain(&[0], SIZE)?;
    let plain_image = scene.plain_image(0, &[SIZE, SIZE])?;
    let mut blobs = Vec::new();
    let mut images = Vec::new();
    for _ in 0..effort.times(10, 200) {
        let blob = scene.blob(SIZE);
        super::degradation::held(&scene, 0, &blob)?;
        blobs.push(blob);
    }
    for _ in 0..effort.times(3, 50) {
        let image = scene.image(&[SIZE, SIZE])?;
        scene.pull_image(0, &image)?;
        scene.node(0)?.containerd()?.forget(&image)?;
        images.push(image);
    }
    scene.registry.close()?;
    let mut tally = Tally::new("63 registry down, blob in the cache");
    for blob in &blobs {
        let end = scene.pull(0, blob)?;
        tally.pull(&end, plain);
        tally.must(end.hand_overs == 0, || format!("handed over to nobody: {end:?}"));
    }
    tally.added_in_bounds();
    report.add(&tally);
    let mut by_ctr = Tally::new("63 registry down, image in the cache, by ctr");
    for image in &images {
        by_ctr.real_pull(&scene.pull_digest(0, image), plain_image);
    }
    by_ctr.added_in_bounds();
    report.add(&by_ctr);
    scene.end(tally.is_good() && by_ctr.is_good());
    Ok(())
}
