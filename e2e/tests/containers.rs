//! podman, buildah and skopeo with the files that `darter setup podman` writes: cold, warm, private, and with Darter dying in
//! the middle of a blob. Each of them goes through each of these.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darter_e2e::clients::{Scene, UPSTREAM, UPSTREAM_WITH_PORT, Visibility};
use darter_e2e::containers::{TOOLS, Tool, set_up};
use darter_e2e::doctor::Report;

const FAST: u32 = 1000;
/// Slow enough for a pull of 1 MB to have a middle.
const SLOW: u32 = 4;
const PULL: Duration = Duration::from_secs(300);

/// Does the same with each program, and says with which it failed.
fn each(scenario: impl Fn(Tool) -> Result<()>) -> Result<()> {
    TOOLS
        .into_iter()
        .try_for_each(|tool| scenario(tool).with_context(|| tool.program()))
}

/// Cold through the proxy, warm without the registry, and without Darter as if it had never been there.
#[test]
fn cold_warm_and_without_darter() -> Result<()> {
    each(|tool| {
        let mut scene = Scene::start(Visibility::Public, FAST)?;
        let image = scene.image("bb", "gzip")?;
        set_up(&scene)?;

        tool.pull(&scene, &image, "cold").run(&image)?;
        let cold = scene.sent()?;
        cold.ensure_through(&image)?;
        tool.pull(&scene, &image, "warm").run(&image)?;
        scene.sent()?.since(cold).ensure_none()?;

        // The proxy takes this for another registry, whose right to the content it has to show.
        let named = tool.pull_from(UPSTREAM_WITH_PORT, &scene, &image, "port");
        named.run(&image)?;
        let ways = scene.sent()?;
        ensure!(
            ways.direct == 0,
            "a registry with a port was asked past the proxy: {ways:?}"
        );

        scene.proxy.process().kill()?;
        tool.pull(&scene, &image, "gone").run(&image)?;
        let direct = scene.sent()?.direct;
        ensure!(
            direct >= image.bytes(),
            "with Darter gone the registry itself is asked, for {direct} bytes"
        );
        scene.passed();
        Ok(())
    })
}

/// A release without a way of its own to go on fails the pull whose proxy was killed; it never takes wrong bytes. The next
/// pull is whole, while the proxy is away from the registry, and through it when it is back.
#[test]
fn the_proxy_dies_in_mid_blob() -> Result<()> {
    each(|tool| {
        let mut scene = Scene::start(Visibility::Public, SLOW)?;
        let image = scene.image("bb", "gzip")?;
        set_up(&scene)?;
        let log = scene.root().with_file_name("pull.log");
        let mut hit = tool.pull(&scene, &image, "hit").start(&log)?;
        scene.kill_proxy_at(&image, 30)?;
        match hit.success(PULL) {
            Ok(()) => tool.pull(&scene, &image, "hit").verify(&image)?,
            Err(error) => {
                let said = hit.log()?;
                let because_of_the_proxy = said.contains("unexpected EOF") || said.contains("127.0.0.1:4001");
                ensure!(because_of_the_proxy, "it failed for another reason: {error:#}");
            }
        }
        let before = scene.sent()?;
        tool.pull(&scene, &image, "away").run(&image)?;
        let away = scene.sent()?;
        ensure!(
            away.since(before).direct >= image.bytes(),
            "from the registry: {away:?}"
        );
        scene.restart_proxy()?;
        tool.pull(&scene, &image, "back").run(&image)?;
        let back = scene.sent()?.since(away);
        ensure!(back.direct == 0, "past the proxy that is back: {back:?}");
        scene.passed();
        Ok(())
    })
}

/// They send a mirror no credentials. The proxy tells such a caller nothing, and they ask the registry themselves; without
/// credentials nobody gets anything.
#[test]
fn private_images_stay_private() -> Result<()> {
    let scene = Scene::start(Visibility::Private, FAST)?;
    let image = scene.image("bb", "gzip")?;
    set_up(&scene)?;
    each(|tool| {
        let anonymous = tool.pull(&scene, &image, "anonymous").run(&image);
        let refused = anonymous.as_ref().is_err_and(|error| {
            let said = format!("{error:#}");
            said.contains("unauthorized") || said.contains("authentication required")
        });
        ensure!(refused, "without credentials: {anonymous:?}");
        let before = scene.sent()?;
        tool.pull(&scene, &image, "known").with_login().run(&image)?;
        let ways = scene.sent()?.since(before);
        ensure!(
            ways.direct >= image.bytes() && ways.origin == 0,
            "it came from the registry itself: {ways:?}"
        );
        Ok(())
    })?;
    scene.ensure_discreet()?;
    scene.passed();
    Ok(())
}

/// Where the node shares credentials of its own, private images come through the proxy, once.
#[test]
fn private_images_by_the_nodes_credentials() -> Result<()> {
    each(|tool| {
        let scene = Scene::sharing(FAST)?;
        let image = scene.image("bb", "gzip")?;
        set_up(&scene)?;
        tool.pull(&scene, &image, "cold").run(&image)?;
        let cold = scene.sent()?;
        cold.ensure_through(&image)?;
        tool.pull(&scene, &image, "warm").run(&image)?;
        scene.sent()?.since(cold).ensure_none()?;
        scene.ensure_discreet()?;
        scene.passed();
        Ok(())
    })
}

/// `darter doctor` on a node that has podman and nothing else: nothing fails, and its pull says where the bytes came from, the
/// second time as well.
#[test]
fn doctor_on_a_node_with_podman_alone() -> Result<()> {
    let scene = Scene::start(Visibility::Public, FAST)?;
    let image = scene.image("bb", "gzip")?;
    set_up(&scene)?;
    let name = format!("{UPSTREAM}/{}:{}", image.repository, image.tag);
    let registries = scene.root().join("etc/containers/registries.conf");
    for source in ["origin", "cache"] {
        let mut doctor = scene.doctor("/usr/bin/podman", UPSTREAM, &name)?;
        let report = Report::of(doctor.env("CONTAINERS_REGISTRIES_CONF", &registries))?;
        ensure!(report.healthy, "{report:#?}");
        ensure!(
            report.state("podman") == Some("ok") && report.state("hosts.toml").is_none(),
            "{report:#?}"
        );
        let seen = report.seen("pull");
        ensure!(seen.contains(&format!("bytes from {source}")), "{report:#?}");
    }
    scene.passed();
    Ok(())
}
