//! stargz-snapshotter with the files that `darter setup stargz` and `darter setup containerd` write: containers that run before
//! their image is there and read it through the proxy. Cold, warm, private, and with Darter dying in the middle.

use std::time::Duration;

use anyhow::{Result, ensure};
use darter_e2e::clients::{Scene, Visibility};
use darter_e2e::clock::until;
use darter_e2e::stargz::{Lazy, set_up};

const FAST: u32 = 1000;
const START: Duration = Duration::from_secs(120);
const PYTHON: &str = "/usr/bin/python3";

/// What clients of the proxy were sent.
fn served(scene: &Scene) -> Result<f64> {
    Ok(scene.proxy.metrics()?.sum("darter_proxy_served_bytes_total", &[]))
}

/// A container runs long before its image is there; a second node's worth of snapshots costs the registry nothing. Of private
/// images too, where the node shares its credentials.
#[test]
fn lazily_cold_and_warm() -> Result<()> {
    for visibility in [Visibility::Public, Visibility::Private] {
        let scene = Scene::lazy(visibility, FAST)?;
        let image = scene.image("lazy", "estargz")?;
        set_up(&scene)?;
        let words = [PYTHON, "-c", "import json; print(json.dumps(1 + 1))"];

        let first = Lazy::start(&scene, "first")?;
        first.pull(&image)?;
        ensure!(
            first.run(&image, "first", &words)?.trim() == "2",
            "it said otherwise"
        );
        let cold = scene.sent()?;
        ensure!(
            cold.direct == 0 && cold.origin > 0,
            "{visibility:?}, all of it through the proxy: {cold:?}"
        );
        let read = served(&scene)?;
        #[expect(clippy::cast_precision_loss, reason = "an image of 100 MB")]
        let whole = image.bytes() as f64;
        ensure!(
            read > 0.0 && read < whole / 2.0,
            "{visibility:?}, lazily: {read} bytes of {whole}"
        );

        let second = Lazy::start(&scene, "second")?;
        second.pull(&image)?;
        ensure!(
            second.run(&image, "second", &words)?.trim() == "2",
            "it said otherwise"
        );
        scene.sent()?.since(cold).ensure_none()?;
        scene.ensure_discreet()?;
        drop((first, second));
        scene.passed();
    }
    Ok(())
}

/// What a running container has not read yet it cannot read while the proxy is away: the snapshotter keeps to the host that it
/// chose. It chooses anew when a container starts, and finds the registry; and what it has is read again when the proxy is back.
#[test]
fn the_proxy_dies_under_running_containers() -> Result<()> {
    let mut scene = Scene::lazy(Visibility::Public, FAST)?;
    let image = scene.image("lazy", "estargz")?;
    set_up(&scene)?;
    let lazy = Lazy::start(&scene, "lazy")?;
    lazy.pull(&image)?;
    let sleep = "import time; print('here', flush=True); time.sleep(3600)";
    let mut running = lazy.start_container(&image, "sleeper", &[PYTHON, "-c", sleep])?;
    running.ready(START, || {
        std::fs::read_to_string(scene.root().with_file_name("lazy").join("sleeper.log"))
            .ok()
            .filter(|said| said.contains("here"))
    })?;
    let import = |module: &str| {
        lazy.execute(
            "sleeper",
            module,
            &[PYTHON, "-c", &format!("import {module}; print('whole')")],
        )
    };
    ensure!(import("json")?.trim() == "whole", "with the proxy");

    scene.proxy.process().kill()?;
    let away = import("asyncio");
    ensure!(
        away.as_ref()
            .is_err_and(|error| error.to_string().contains("Input/output error")),
        "without the proxy: {away:?}"
    );
    scene.restart_proxy()?;
    ensure!(import("asyncio")?.trim() == "whole", "with the proxy back");

    scene.proxy.process().kill()?;
    let before = scene.sent()?;
    let words = [PYTHON, "-c", "import xml.dom.minidom; print('whole')"];
    let said = lazy.run(&image, "another", &words)?;
    let ways = scene.sent()?.since(before);
    ensure!(
        said.trim() == "whole" && ways.direct > 0 && ways.origin == 0,
        "a new container reads from the registry: {said} {ways:?}"
    );

    lazy.kill_container("sleeper")?;
    until("the container to end", START, || {
        Ok((!running.is_running()?).then_some(()))
    })?;
    drop((running, lazy));
    scene.passed();
    Ok(())
}
