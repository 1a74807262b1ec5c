//! What clients do with a mirror that sends one wrong bit: the reason why Darter proves bytes before it sends them.
//! `docs/design/client-contract.md` says what was found.

use std::time::Duration;

use anyhow::{Result, ensure};
use darter_e2e::clients::{Scene, UPSTREAM, Visibility, verify_layout};
use darter_e2e::clock::until;
use darter_e2e::command::run;
use darter_e2e::containerd::Containerd;
use darter_e2e::docker::Docker;
use darter_e2e::image::{Set, prepare};
use darter_e2e::lab::Lab;
use darter_e2e::liar::Liar;
use darter_e2e::registry::Registry;

/// containerd collects what has lost its lease soon after a pull ended.
const COLLECTION: Duration = Duration::from_secs(120);

/// containerd notices when it has the whole blob, and asks nobody else. It keeps the bad bytes: a pull that comes
/// before they are collected fails on them without a request, even when the liar is gone.
#[test]
fn containerd_fails_and_keeps_wrong_bytes_for_a_while() -> Result<()> {
    let mut lab = Lab::start()?;
    let fixtures = prepare(Set::Small)?;
    let image = fixtures.image("bb", "gzip")?.clone();
    let layer = image.layers.first().expect("the image has a layer").clone();
    let (host, origin) = (lab.host("n0", 10)?, lab.host("origin", 1)?);
    let registry = Registry::serve(&origin, &fixtures.store, &lab.folder_of("origin"))?;
    let layer_sent = || -> Result<u64> {
        registry.settle()?;
        let sent = registry.sent_by_digest()?;
        Ok(sent.get(&layer.digest).copied().unwrap_or_default())
    };
    let liar = Liar::start(
        &host,
        4001,
        &fixtures.store,
        &lab.folder_of("n0").join("liar.log"),
    )?;
    let mut node = Containerd::start(&host, &lab.folder_of("n0"), &lab.memory_of("n0"))?;
    node.set_hosts(&registry.url(), &["http://127.0.0.1:4001"])?;

    let wrong = |error: &anyhow::Error| error.to_string().contains("unexpected commit digest");
    let first = node.fetch(&image)?.wait().unwrap_err();
    ensure!(wrong(&first), "it said: {first:#}");
    ensure!(liar.blobs_asked()? > 0, "the liar was asked");
    ensure!(layer_sent()? == 0, "the next host was asked for the layer");

    node.set_hosts(&registry.url(), &[])?;
    until("the bad bytes to be collected", COLLECTION, || {
        match node.fetch(&image)?.wait() {
            Ok(()) => Ok(Some(())),
            Err(error) => {
                ensure!(wrong(&error), "it said: {error:#}");
                ensure!(layer_sent()? == 0, "the registry was asked for the layer");
                Ok(None)
            }
        }
    })?;
    node.verify(&image)?;
    ensure!(layer_sent()? >= layer.size, "the layer came from the registry");
    drop((node, liar));
    lab.passed();
    Ok(())
}

/// skopeo fails the copy and keeps nothing; Docker goes on at Docker Hub.
#[test]
fn others_notice_and_keep_nothing() -> Result<()> {
    let mut scene = Scene::start(Visibility::Public, 1000)?;
    let image = scene.image("bb", "gzip")?;
    scene.write(
        "etc/containers/registries.conf",
        &format!("[[registry]]\nlocation = \"{UPSTREAM}\"\n"),
    )?;
    scene.setup("podman", &["--registry", UPSTREAM])?;
    scene.setup("docker", &[])?;
    scene.proxy.process().kill()?;
    let log = scene.root().with_file_name("liar.log");
    let liar = Liar::start(scene.node(), 4001, &scene.fixtures.store, &log)?;

    let layout = scene.memory("layout");
    let skopeo = || {
        let mut skopeo = scene.command("skopeo");
        skopeo
            .arg("--registries-conf")
            .arg(scene.root().join("etc/containers/registries.conf"));
        skopeo.args(["copy", "--quiet"]);
        skopeo.arg(format!("docker://{UPSTREAM}/{}:{}", image.repository, image.tag));
        skopeo.arg(format!("oci:{}:{}", layout.display(), image.tag));
        skopeo
    };
    let error = run(&mut skopeo()).unwrap_err().to_string();
    ensure!(error.contains("igest"), "skopeo said: {error}");
    let asked = liar.blobs_asked()?;
    ensure!(asked > 0, "the liar was asked");

    let docker = Docker::start(&scene)?;
    docker.pull(&image)?;
    ensure!(liar.blobs_asked()? > asked, "Docker asked the liar first");

    drop(liar);
    run(&mut skopeo())?;
    verify_layout(&layout, &image)?;
    drop(docker);
    scene.passed();
    Ok(())
}
