//! Strangers who fill the disk: they pull one large digest after the other from a registry of their own.

use anyhow::{Context as _, Result};
use serde_json::json;

use super::degradation::held;
use super::scene::{MIB, Plan, REPOSITORY, Scene};
use super::{Effort, Report, Tally};

/// What the store may hold, and what of it may be the strangers'.
const QUOTA: u64 = 24 * MIB;
const STRANGERS_QUOTA: u64 = 8 * MIB;
/// Contents that somebody reads again and again.
const HOT: usize = 8;
/// What strangers pull, each once, and now and then more than they may have at all.
const LENGTH: u64 = MIB;
const TOO_LARGE: u64 = STRANGERS_QUOTA + 1;
const TOO_LARGE_EVERY: usize = 50;

/// Bar 46: the quota of a registry holds, and what others use stays.
pub(super) fn strangers(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("46 disk fill by strangers");
    let mut scene = Scene::prepare(Plan {
        nodes: 1,
        ..Plan::default()
    })?;
    let registry = json!({ "strangers.test": { "endpoint": scene.registry.url() } });
    scene.node(0)?.settings.more = json!({
        "origin": { "registries": registry },
        "store": {
            "quota": QUOTA,
            "freeFloor": MIB,
            "registryQuotas": { "strangers.test": STRANGERS_QUOTA },
        },
    });
    scene.start_all()?;
    let plain = scene.plain(&[0], MIB)?;
    let mut hot = Vec::new();
    for _ in 0..HOT {
        let blob = scene.blob(MIB);
        held(&scene, 0, &blob)?;
        hot.push(blob);
    }
    let rounds = effort.times(100, 10_000);
    let (mut hits, mut asked) = (0, 0);
    for number in (1..).take(usize::try_from(rounds)?) {
        let length = match number % TOO_LARGE_EVERY {
            0 => TOO_LARGE,
            _ => LENGTH,
        };
        let blob = scene.blob(length);
        let mut errand = scene.errand(&blob);
        errand.mirror_query = "?ns=strangers.test".to_owned();
        let watch = scene.node(0)?.begin(errand);
        let ends = super::scene::ended(&[watch])?;
        tally.pull(ends.first().context("one pull, one end")?, plain * 9);
        scene.registry.origin.remove_blob(REPOSITORY, &blob.digest);
        let stored = scene.node(0)?.metric("darter_proxy_store_stored_bytes", &[])?;
        tally.must(stored <= QUOTA as f64, || format!("the store has {stored} bytes"));

        let wanted = hot.get(number % HOT).context("a hot content")?;
        let before = scene.registry.origin.bytes_sent_for(&wanted.digest);
        tally.pull(&scene.pull(0, wanted)?, plain);
        asked += 1;
        hits += u32::from(scene.registry.origin.bytes_sent_for(&wanted.digest) == before);
    }
    tally.must(hits * 100 >= asked * 95, || {
        format!("{hits} of {asked} reads of what others use were hits")
    });
    tally.note(format!("{hits} of {asked} reads of what others use were hits"));
    tally.added_in_bounds();
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}
