//! Tags that move, and answers that are no manifests.

use std::time::Duration;

use anyhow::{Context as _, Result};
use darter_testkit::content::{Content, sha256_of};
use darter_testkit::origin::{Fault, Match, Target, When};
use serde_json::json;

use super::scene::{Plan, REPOSITORY, Scene};
use super::{Effort, Report, Tally};
use crate::clock::now;

/// Its media type.
pub(super) const KIND: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: u64 = 200_000;

/// A manifest without layers that is told from others by a word and a number.
pub(super) fn manifest(text: &str, round: u64) -> String {
    let config = json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256_of(b"{}"), "size": 2 });
    let named = json!({ "test.name": text, "test.round": round.to_string() });
    json!({ "schemaVersion": 2, "mediaType": KIND, "config": config, "layers": [], "annotations": named })
        .to_string()
}

/// Bar 10: a moved tag is seen by the next pull; without its registry it is answered only where that is switched on.
pub(super) fn moved_tag(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("10 tag moved; registry down");
    let mut scene = Scene::start(Plan {
        nodes: 2,
        ..Plan::default()
    })?;
    let node = scene.node(1)?;
    node.settings.more = json!({ "mirror": { "serveStaleTags": true } });
    node.start()?;
    let target = format!("/v2/{REPOSITORY}/manifests/moving?ns=registry.test");
    let mut last = String::new();
    for round in 0..effort.times(5, 200) {
        for text in ["first", "second"] {
            let body = manifest(text, round);
            let origin = &scene.registry.origin;
            last = origin.add_manifest(REPOSITORY, Some("moving"), KIND, body);
            for index in 0..2 {
                let start = now();
                let answer = scene.node(index)?.get(&target)?;
                let took = start.elapsed();
                let right = answer.status == 200 && answer.body_digest() == last;
                let told = format!("{} of {last}", answer.status);
                let result = right.then_some(took).context(told);
                tally.real_pull(&result, Duration::ZERO);
            }
        }
    }
    scene.registry.close()?;
    let strict = scene.node(0)?.get(&target)?;
    tally.must(strict.status == 503 || strict.status == 502, || {
        format!("without its registry a tag was answered by {}", strict.status)
    });
    let stale = scene.node(1)?.get(&target)?;
    let warned = stale
        .header("warning")
        .is_some_and(|value| value.starts_with("110"));
    tally.must(
        stale.status == 200 && stale.body_digest() == last && warned,
        || format!("a stale tag was answered by {} {:?}", stale.status, stale.headers),
    );
    let counted = scene.node(1)?.metric("darter_proxy_stale_tags_total", &[])?;
    tally.must(counted >= 1.0, || "stale tags are not counted".to_owned());
    tally.added_in_bounds();
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}

/// Bar 12: the node's registry answers with what is no manifest; containerd goes on to its next host.
pub(super) fn no_manifests(effort: Effort, report: &mut Report) -> Result<()> {
    let mut scene = Scene::prepare(Plan {
        nodes: 1,
        containerd: true,
        ..Plan::default()
    })?;
    let lying = scene.add_other()?;
    scene.node(0)?.settings.registry = lying;
    scene.start_all()?;
    let plain = scene.plain_image(0, &[LAYER])?;
    let wrong = |text: String| Fault::Replace {
        content: Content::from(text),
        etag: "\"other\"".to_owned(),
    };
    let both = json!({ "schemaVersion": 2, "mediaType": KIND, "config": {}, "layers": [], "manifests": [] });
    let mut good = true;
    for (name, fault) in [
        ("12 HTML instead of a manifest", Fault::Html),
        (
            "12 manifest of another type",
            Fault::SetHeader("content-type", "application/json".to_owned()),
        ),
        ("12 manifest that is an index as well", wrong(both.to_string())),
        (
            "12 manifest above 4 MiB",
            wrong(format!("{{\"x\":\"{}\"}}", "x".repeat(5 << 20))),
        ),
        ("12 JSON that is no manifest", wrong("[1,2,3]".to_owned())),
    ] {
        let mut tally = Tally::new(name);
        // A length that a HEAD gets wrong would break a pull without Darter as well.
        let what = Match::target(Target::Manifests);
        let what = if matches!(fault, Fault::Html) {
            what
        } else {
            what.get()
        };
        for round in 0..effort.times(2, 200) {
            let image = scene.image(&[LAYER])?;
            let origin = &scene.other()?.origin;
            let injected = origin.inject(what.clone(), When::Always, fault.clone());
            let result = scene.pull_image(0, &image);
            tally.real_pull(&result.with_context(|| format!("round {round}")), plain);
            let digest = &image.manifest.digest;
            let target = format!("/v2/{}/manifests/{digest}?ns=registry.test", image.repository);
            let answer = scene.node(0)?.get(&target)?;
            // The right bytes under another type are still the right bytes.
            let right = answer.body_digest() == *digest;
            tally.must(answer.status != 200 || right, || {
                "what is no manifest was answered by 200".to_owned()
            });
            scene.other()?.origin.heal(injected);
            let _ = scene.node(0)?.containerd()?.forget(&image);
        }
        tally.added_in_bounds();
        good &= tally.is_good();
        report.add(&tally);
    }
    scene.end(good);
    Ok(())
}
