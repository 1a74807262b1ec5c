//! What an operator asks on a node that runs: `darter doctor` and `darter why`, with a real containerd.

use anyhow::{Context as _, Result, ensure};
use darter_e2e::cluster::{Cluster, Size};
use darter_e2e::command::output;
use darter_e2e::darter::binary;
use darter_e2e::doctor::Report;

/// An image that another node holds: the canary pull gets it from there, a second one from this node's store, and both
/// commands say so.
#[test]
fn doctor_pulls_a_canary_and_why_draws_it() -> Result<()> {
    let mut cluster = Cluster::with_darter(Size {
        nodes: 2,
        origin_mbit: 200,
        node_mbit: 400,
    })?;
    let image = cluster.image("bb", "gzip")?;
    let asking = cluster.nodes.pop().context("there are two nodes")?;
    cluster.pull_everywhere(&image)?;

    let reference = image.reference();
    let canary = || {
        let mut doctor = asking.doctor(&["--pull", &reference, "--ctr", "--platform=linux/amd64"])?;
        Report::of(&mut doctor)
    };
    let report = canary()?;
    for check in [
        "runtime",
        "mirror",
        "ready",
        "scheduler",
        "peers",
        "registry",
        "pull",
    ] {
        ensure!(report.state(check) == Some("ok"), "{check}: {report:#?}");
    }
    ensure!(report.seen("pull").contains("bytes from peer"), "{report:#?}");
    let report = canary()?;
    let again = report.seen("pull");
    ensure!(
        again.contains("bytes from cache") && !again.contains("peer"),
        "{report:#?}"
    );

    let mut why = asking.host().command(binary()?);
    let drawn = output(why.args(["why", &reference]))?;
    let layers = drawn
        .lines()
        .filter(|line| line.starts_with("layer ") && line.contains('p'));
    ensure!(layers.count() >= image.layers.len(), "{drawn}");
    ensure!(
        asking.verify(&image).is_err(),
        "the canary's contents are still there"
    );
    cluster.passed();
    Ok(())
}
