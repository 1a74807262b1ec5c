//! Registries that send other bytes than the digest says: nothing of it is kept, announced, or given out as whole.

use std::time::Duration;

use anyhow::Result;
use darter_testkit::client::End;
use darter_testkit::content::Content;
use darter_testkit::origin::{Fault, Match, When};
use serde_json::json;

use super::manifests::{KIND, manifest};
use super::node::Node;
use super::scene::{Blob, MIB, Plan, REPOSITORY, Scene};
use super::{Effort, Report, Tally};
use crate::clock::until;

const SIZE: u64 = 2 * MIB;
const PATIENCE: Duration = Duration::from_secs(20);

/// Bar 6: the node's registry lies, in each way that it can. The client's own last host does not.
pub(super) fn lying_registry(effort: Effort, report: &mut Report) -> Result<()> {
    let mut scene = Scene::prepare(Plan {
        nodes: 1,
        scheduler: true,
        ..Plan::default()
    })?;
    let lying = scene.add_other()?;
    scene.node(0)?.settings.registry = lying;
    scene.start_all()?;
    let plain = scene.plain(&[0], SIZE)?;
    let mut good = true;
    for (name, fault, may_be_kept) in [
        (
            "6 registry sends a wrong last byte",
            Fault::WrongByte { at: SIZE - 1 },
            false,
        ),
        ("6 registry sends a short body", Fault::ShortBy(1000), false),
        ("6 registry sends a long body", Fault::LongBy(1000), false),
        ("6 registry sends no bytes", Fault::NoBytes, false),
        (
            "6 registry's HEAD says another length",
            Fault::HeadLength(SIZE / 2),
            true,
        ),
    ] {
        let mut tally = Tally::new(name);
        for _ in 0..effort.times(2, 200) {
            let blob = scene.blob(SIZE);
            let origin = scene.other()?.origin.clone();
            let injected = origin.inject(Match::digest(&blob.digest), When::Always, fault.clone());
            tally.pull(&scene.pull(0, &blob)?, plain);
            if !may_be_kept {
                let gone = is_forgotten(scene.node(0)?, &blob);
                tally.must(gone.is_ok(), || format!("it is still announced: {gone:?}"));
            }
            origin.heal(injected);
            // By now the registry is right: whether by Darter or past it, the bytes are.
            tally.pull(&scene.pull(0, &blob)?, plain);
        }
        tally.added_in_bounds();
        good &= tally.is_good();
        report.add(&tally);
    }
    let mut tally = Tally::new("6 registry sends a wrong byte in the middle");
    for _ in 0..effort.times(2, 200) {
        never_whole(&mut scene, &mut tally, plain)?;
    }
    good &= tally.is_good();
    report.add(&tally);
    scene.end(good);
    Ok(())
}

/// What a registry sends is relayed as it comes, so its wrong byte may be; but the body never ends as if it were whole, and
/// nothing is kept. The pull that counts is the one after the registry is right again.
fn never_whole(scene: &mut Scene, tally: &mut Tally, plain: Duration) -> Result<()> {
    let blob = scene.blob(SIZE);
    let origin = scene.other()?.origin.clone();
    let wrong = Fault::WrongByte { at: SIZE / 2 };
    let injected = origin.inject(Match::digest(&blob.digest).get(), When::Always, wrong);
    let node = scene.node(0)?;
    let answer = node.get(&blob_target(&blob, "registry.test"))?;
    tally.must(answer.status != 200 || answer.end == End::Fin, || {
        format!("a wrong content ended with {:?}", answer.end)
    });
    let again = node.get(&blob_target(&blob, "registry.test"))?;
    tally.must(again.status == 503, || {
        format!("the next request for it got {}", again.status)
    });
    let gone = is_forgotten(node, &blob);
    tally.must(gone.is_ok(), || format!("it is still announced: {gone:?}"));
    origin.heal(injected);
    tally.pull(&scene.pull(0, &blob)?, plain);
    Ok(())
}

/// Waits until the node gives no piece of it to others.
fn is_forgotten(node: &Node, blob: &Blob) -> Result<()> {
    until("a wrong content to be gone", PATIENCE, || {
        let answer = node.get_pieces(&blob.digest, 0..256)?;
        Ok((answer.status == 404).then_some(()))
    })
}

fn blob_target(blob: &Blob, registry: &str) -> String {
    format!("/v2/{REPOSITORY}/blobs/{}?ns={registry}", blob.digest)
}

/// Bar 7: another registry gives other bytes under the digest, first. The right ones come from the right one.
pub(super) fn poisoned_digest(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("7 another registry lies about a digest");
    let mut scene = Scene::prepare(Plan {
        nodes: 1,
        ..Plan::default()
    })?;
    let evil = scene.add_other()?;
    let registries = json!({ "origin": { "registries": { "evil.test": { "endpoint": evil } } } });
    scene.node(0)?.settings.more = registries;
    scene.start_all()?;
    let plain = scene.plain(&[0], SIZE)?;
    for round in 0..effort.times(3, 200) {
        let blob = scene.blob(SIZE);
        let poison = Content::generated(1_000_000 + round, SIZE);
        scene
            .other()?
            .origin
            .add_blob_as(REPOSITORY, &blob.digest, poison);
        let answer = scene.node(0)?.get(&blob_target(&blob, "evil.test"))?;
        tally.must(answer.status != 200 || answer.end != End::Complete, || {
            "poison was given out as whole".to_owned()
        });
        tally.pull(&scene.pull(0, &blob)?, plain);
        let tag = format!("/v2/{REPOSITORY}/manifests/same?ns=");
        for (registry, text) in [("registry.test", "right"), ("evil.test", "wrong")] {
            let manifest = manifest(text, round);
            let origin = match registry {
                "evil.test" => &scene.other()?.origin,
                _ => &scene.registry.origin,
            };
            let digest = origin.add_manifest(REPOSITORY, Some("same"), KIND, manifest);
            let answer = scene.node(0)?.get(&format!("{tag}{registry}"))?;
            tally.must(answer.status == 200 && answer.body_digest() == digest, || {
                format!(
                    "{registry}'s tag was answered by {} {}",
                    answer.status,
                    answer.body_digest()
                )
            });
        }
    }
    tally.added_in_bounds();
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}
