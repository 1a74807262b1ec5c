//! The registry is slow, refuses, breaks off, changes its mind or is gone; and everybody comes at once.

use std::time::Duration;

use anyhow::Result;
use darter_testkit::content::Content;
use darter_testkit::origin::{CutBy, Fault, Match, RedirectTo, When};
use darter_testkit::puller::Watch;
use http::Method;

use super::limits::resident_peak;
use super::scene::{Blob, MIB, Plan, Scene, ended};
use super::{Effort, Report, Tally, part_of};
use crate::clock::until;

const CLIENTS: u64 = 1000;
const HERD_SIZE: u64 = 8 * MIB;
const RESIDENT_MAX: u64 = 256 * MIB;
const SIZE: u64 = 2 * MIB;
const PIECE: u64 = 256 * 1024;
/// A shared machine's share of a time.
const NOISE: Duration = Duration::from_secs(1);

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
            for end in ended(&watches)? {
                tally.pull(&end, plain);
            }
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
        tally.added_at_most(Duration::from_secs(10));
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
    let rounds = effort.times(3, 20);
    let mut once = 0;
    for _ in 0..rounds {
        let blob = scene.blob(HERD_SIZE);
        for end in scene.pull_on(&all, &blob)? {
            tally.pull(&end, plain);
        }
        let gets = scene.registry.origin.requests_for(&Method::GET, &blob.digest);
        once += u64::from(gets <= 1);
        let sent = scene.registry.origin.bytes_sent_for(&blob.digest);
        eprintln!("faults: 59: {gets} requests, {sent} bytes of {HERD_SIZE}");
    }
    // A node that hears nothing for 300 ms goes alone: on a machine with other work that happens to one of fifty.
    tally.must(once * 2 > rounds, || {
        format!("only {once} of {rounds} blobs left the registry by one request")
    });
    tally.added_at_most(NOISE * 2);
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
    for (name, fault, limit) in [
        ("60 500 for 30 % of requests", Fault::status(500), 5),
        (
            "60 429, Retry-After 1 s, for 30 %",
            Fault::too_many_requests(1),
            8,
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
            tally.pull(&scene.pull(0, &blob)?, plain);
            let (gets, refused) = (
                origin.requests_for(&Method::GET, &blob.digest),
                origin.fired(injected),
            );
            tally.must(gets <= refused + 1, || {
                format!("{gets} requests for one blob, of which {refused} were refused")
            });
            origin.heal(injected);
        }
        tally.added_at_most(Duration::from_secs(limit));
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
    let plain = scene.plain(&[0], SIZE)?;
    for round in 0..effort.times(20, 200) {
        let by = if round % 2 == 0 { CutBy::Fin } else { CutBy::Rst };
        let at = part_of(SIZE, round);
        one(&mut scene, &mut tally, SIZE, Fault::Cut { at, by }, plain)?;
    }
    tally.added_at_most(NOISE * 2);
    good &= tally.is_good();
    report.add(&tally);

    let mut tally = Tally::new("61 registry falls silent at byte n");
    for round in 0..effort.times(1, 20) {
        let at = part_of(SIZE, round + 1);
        one(&mut scene, &mut tally, SIZE, Fault::Stall { at }, plain)?;
    }
    // Without Darter the pull would hang; with it the silence is over after `origin.silenceTimeout`.
    tally.added_at_most(Duration::from_secs(12));
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
    tally.added_at_most(NOISE * 2);
    good &= tally.is_good();
    report.add(&tally);
    scene.end(good);
    Ok(())
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

/// Bar 62: it ignores ranges, has another content in the middle, or its signed addresses run out.
pub(super) fn changes(effort: Effort, report: &mut Report) -> Result<()> {
    let mut scene = Scene::start(Plan {
        nodes: 1,
        ..Plan::default()
    })?;
    let plain = scene.plain(&[0], SIZE)?;
    let mut good = true;
    for (name, way) in [
        ("62 registry ignores Range after a cut", Way::IgnoresRange),
        ("62 another content and ETag in the middle", Way::Other),
        ("62 signed address runs out in the middle", Way::Expires),
    ] {
        let mut tally = Tally::new(name);
        for round in 0..effort.times(5, 200) {
            let blob = scene.blob(SIZE);
            let origin = scene.registry.origin.clone();
            let what = Match::digest(&blob.digest).get();
            let cut = Fault::Cut {
                at: 1 + part_of(SIZE - 1, round),
                by: CutBy::Fin,
            };
            match way {
                Way::IgnoresRange => {
                    origin.inject(what.clone(), When::Always, Fault::IgnoreRange);
                    origin.inject(what, When::Nth(1), cut);
                }
                Way::Other => {
                    origin.inject(what.clone(), When::Nth(1), cut);
                    let content = Content::generated(2_000_000 + round, SIZE);
                    let etag = "\"other\"".to_owned();
                    origin.inject(what, When::Nth(2), Fault::Replace { content, etag });
                }
                Way::Expires => {
                    let valid = Duration::from_millis(500);
                    let to = RedirectTo::Presigned { host: None, valid };
                    let path = format!("/v2/{}/blobs/{}", super::scene::REPOSITORY, blob.digest);
                    origin.inject(Match::path(&path).get(), When::Always, Fault::Redirect(to));
                    // It breaks off after a second: later than the first address is good for.
                    let storage = Match::path(&format!("/storage/{}", blob.digest)).get();
                    let bytes_per_second = 1 + part_of(SIZE - 1, round);
                    origin.inject(storage.clone(), When::Nth(1), Fault::Drip { bytes_per_second });
                    origin.inject(storage, When::Nth(1), cut);
                }
            }
            tally.pull(&scene.pull(0, &blob)?, plain);
        }
        tally.added_at_most(NOISE * 5);
        good &= tally.is_good();
        report.add(&tally);
        scene.registry.origin.heal_all();
    }
    scene.end(good);
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Way {
    IgnoresRange,
    Other,
    Expires,
}

/// Bar 63: the registry is gone; what the node has, and anybody may read, is served.
pub(super) fn down(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("63 registry down, blob in the cache");
    let mut scene = Scene::start(Plan {
        nodes: 1,
        ..Plan::default()
    })?;
    let plain = scene.plain(&[0], SIZE)?;
    let mut blobs = Vec::new();
    for _ in 0..effort.times(10, 200) {
        let blob = scene.blob(SIZE);
        super::degradation::held(&scene, 0, &blob)?;
        blobs.push(blob);
    }
    scene.registry.close()?;
    for blob in &blobs {
        let end = scene.pull(0, blob)?;
        tally.pull(&end, plain);
        tally.must(end.hand_overs == 0, || format!("handed over to nobody: {end:?}"));
    }
    tally.added_at_most(Duration::from_millis(50) + NOISE);
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}
