//! The registry changes its mind in the middle of a content.

use std::time::Duration;

use anyhow::Result;
use darter_testkit::content::Content;
use darter_testkit::origin::{CutBy, Fault, Match, RedirectTo, When};

use super::origin::{SIZE, plain_under};
use super::scene::{Plan, REPOSITORY, Scene};
use super::{Effort, Report, Tally, part_of};

/// Bar 62: it ignores ranges, has another content in the middle, or its signed addresses run out.
pub(super) fn changes(effort: Effort, report: &mut Report) -> Result<()> {
    let mut scene = Scene::start(Plan {
        nodes: 1,
        ..Plan::default()
    })?;
    let mut good = true;
    for (name, way) in [
        (
            "62 registry ignores Range after a cut",
            ignores_range as fn(&mut Scene, &mut Tally, u64) -> Result<()>,
        ),
        ("62 another content and ETag in the middle", another_content),
        ("62 signed address runs out in the middle", address_runs_out),
    ] {
        let mut tally = Tally::new(name);
        for round in 0..effort.times(5, 200) {
            way(&mut scene, &mut tally, round)?;
            scene.registry.origin.heal_all();
        }
        tally.added_in_bounds();
        good &= tally.is_good();
        report.add(&tally);
    }
    scene.end(good);
    Ok(())
}

/// Breaks off once, at a place of this round.
fn cut_in(round: u64) -> Fault {
    Fault::Cut {
        at: 1 + part_of(SIZE - 1, round),
        by: CutBy::Fin,
    }
}

fn ignores_range(scene: &mut Scene, tally: &mut Tally, round: u64) -> Result<()> {
    let faults = [(When::Always, Fault::IgnoreRange), (When::Nth(1), cut_in(round))];
    let plain = plain_under(scene, &faults)?;
    let blob = scene.blob(SIZE);
    let origin = scene.registry.origin.clone();
    let what = Match::digest(&blob.digest).get();
    for (when, fault) in faults {
        origin.inject(what.clone(), when, fault);
    }
    tally.pull(&scene.pull(0, &blob)?, plain);
    let ignored = origin.count(|record| {
        record.digest.as_deref() == Some(&blob.digest)
            && record.header("range").is_some()
            && record.status == Some(200)
    });
    tally.must(ignored > 0, || "no range was ever ignored".to_owned());
    Ok(())
}

fn another_content(scene: &mut Scene, tally: &mut Tally, round: u64) -> Result<()> {
    // Without Darter the other content would be the end of the pull: it is compared with one that is cut alone.
    let plain = plain_under(scene, &[(When::Nth(1), cut_in(round))])?;
    let blob = scene.blob(SIZE);
    let origin = scene.registry.origin.clone();
    let what = Match::digest(&blob.digest).get();
    let other = Fault::Replace {
        content: Content::generated(2_000_000 + round, SIZE),
        etag: "\"other\"".to_owned(),
    };
    let cut = origin.inject(what.clone(), When::Nth(1), cut_in(round));
    let other = origin.inject(what, When::Nth(2), other);
    tally.pull(&scene.pull(0, &blob)?, plain);
    for (name, fault) in [("cut", cut), ("other content", other)] {
        let times = origin.fired(fault);
        tally.must(times == 1, || format!("the {name} came {times} times"));
    }
    Ok(())
}

/// The address is good when it is followed, and not any more when the answer breaks off.
fn address_runs_out(scene: &mut Scene, tally: &mut Tally, round: u64) -> Result<()> {
    const VALID: Duration = Duration::from_millis(1500);
    /// Until it breaks off.
    const LASTS: u64 = 2;
    let bytes_per_second = 1 + part_of(SIZE - 1, round) / LASTS;
    let cut = Fault::Cut {
        at: bytes_per_second * LASTS,
        by: CutBy::Fin,
    };
    let faults = [
        (When::Nth(1), Fault::Drip { bytes_per_second }),
        (When::Nth(1), cut),
    ];
    let plain = plain_under(scene, &faults)?;
    let blob = scene.blob(SIZE);
    let origin = scene.registry.origin.clone();
    let to = RedirectTo::Presigned {
        host: None,
        valid: VALID,
    };
    let path = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest);
    let redirected = origin.inject(Match::path(&path).get(), When::Always, Fault::Redirect(to));
    let storage = format!("/storage/{}", blob.digest);
    let injected: Vec<_> = faults
        .into_iter()
        .map(|(when, fault)| origin.inject(Match::path(&storage).get(), when, fault))
        .collect();
    tally.pull(&scene.pull(0, &blob)?, plain);
    let followed: Vec<_> = origin
        .log()
        .into_iter()
        .filter(|record| record.path == storage)
        .map(|record| record.status)
        .collect();
    tally.must(followed.first() == Some(&Some(200)), || {
        format!("the first address was answered by {followed:?}")
    });
    for fault in injected {
        let times = origin.fired(fault);
        tally.must(times == 1, || {
            format!("a fault of the storage came {times} times")
        });
    }
    let addresses = origin.fired(redirected);
    tally.must(addresses >= 2, || "no new address was asked for".to_owned());
    Ok(())
}
