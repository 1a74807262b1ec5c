//! Docker and the builds inside it, by its mirrors and by the forward proxy, with the files that `darter setup docker` wrote:
//! cold, warm, private, and with Darter dying in the middle. containerd's private images, and the requests of lazy readers.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use darter_e2e::clients::{FORWARD, PASSWORD, Scene, UPSTREAM, USER, Visibility};
use darter_e2e::command::{output, run};
use darter_e2e::containerd::Containerd;
use darter_e2e::darter::MIRROR;
use darter_e2e::docker::{Docker, hub_name};
use darter_e2e::doctor::Report;
use darter_e2e::image::Image;

const FAST: u32 = 1000;
/// Slow enough for a pull of 200 MB to have a middle.
const SLOW: u32 = 300;
/// The same for one of 1 MB.
const SLOWER: u32 = 4;
/// Longer than Docker's pauses between its tries, all together.
const PULL: Duration = Duration::from_secs(300);

fn reference(image: &Image) -> String {
    format!("{UPSTREAM}/{}:{}", image.repository, image.tag)
}

#[test]
fn docker_pulls_and_builds_through_the_mirror() -> Result<()> {
    let mut scene = Scene::start(Visibility::Public, SLOW)?;
    let (small, large) = (scene.image("bb", "gzip")?, scene.image("mid", "gzip")?);
    // By default the daemon tries six times, with longer and longer pauses, 75 s in all.
    scene.write("etc/docker/daemon.json", "{\"max-download-attempts\": 2}\n")?;
    scene.setup("docker", &[])?;
    let docker = Docker::start(&scene)?;

    docker.pull(&small)?;
    let cold = scene.sent()?;
    cold.ensure_through(&small)?;
    docker.remove(&small)?;
    docker.pull(&small)?;
    docker.remove(&small)?;
    scene.sent()?.since(cold).ensure_none()?;

    let file = scene.write(
        "build/Dockerfile",
        &format!("FROM {}\nCOPY Dockerfile /\n", hub_name(&small)),
    )?;
    let folder = file.parent().unwrap_or(Path::new("/")).display().to_string();
    for buildkit in ["1", "0"] {
        let mut build = docker.client(&["build", "--quiet", "--no-cache", "--network", "none", &folder]);
        run(build.env("DOCKER_BUILDKIT", buildkit))?;
    }
    scene.sent()?.since(cold).ensure_none()?;

    let before = scene.sent()?;
    let pull = docker.start_pull(&large)?;
    scene.kill_proxy_at(&large, 30)?;
    docker.finish_pull(pull, &large)?;
    let ways = scene.sent()?.since(before);
    ensure!(
        ways.origin > 0 && ways.direct > 0,
        "the pull changed over: {ways:?}"
    );

    docker.remove(&small)?;
    docker.pull(&small)?;
    drop(docker);
    scene.passed();
    Ok(())
}

/// `darter doctor` on a node with Docker alone: its pull is Docker's, goes away again, and says where the bytes came from; an image
/// that was there stays.
#[test]
fn doctor_pulls_through_docker() -> Result<()> {
    let scene = Scene::start(Visibility::Public, FAST)?;
    let image = scene.image("bb", "gzip")?;
    scene.setup("docker", &[])?;
    let docker = Docker::start(&scene)?;
    let name = hub_name(&image);
    let look = || -> Result<Report> {
        let mut doctor = scene.doctor("/usr/sbin/dockerd", "docker.io", &name)?;
        // Debian's client, whatever else a machine has in its PATH.
        Report::of(docker.show(doctor.env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin")))
    };
    for source in ["origin", "cache"] {
        let report = look()?;
        ensure!(
            report.healthy && report.state("docker") == Some("ok") && report.state("hosts.toml").is_none(),
            "{report:#?}"
        );
        let seen = report.seen("pull");
        ensure!(seen.contains(&format!("bytes from {source}")), "{report:#?}");
        let held = run(&mut docker.client(&["image", "inspect", &name]));
        ensure!(held.is_err(), "the image is still there");
    }
    docker.pull(&image)?;
    // Docker has the layers. It keeps the manifest for a while: that comes again, or nothing.
    let report = look()?;
    let manifest = format!(": {} bytes from cache", image.manifest.size);
    ensure!(
        report.healthy && (report.state("pull") == Some("warn") || report.seen("pull").ends_with(&manifest)),
        "{report:#?}"
    );
    docker.remove(&image)?;
    drop(docker);
    scene.passed();
    Ok(())
}

/// Docker sends a mirror no credentials. The proxy tells it nothing, and it asks Docker Hub with its own; without
/// credentials nobody gets anything.
#[test]
fn docker_hubs_private_images_stay_private() -> Result<()> {
    let scene = Scene::start(Visibility::Private, FAST)?;
    let image = scene.image("bb", "gzip")?;
    scene.setup("docker", &[])?;
    let docker = Docker::start(&scene)?;
    ensure!(docker.pull(&image).is_err(), "docker without credentials");
    run(&mut docker.client(&["login", "--username", USER, "--password", PASSWORD]))?;
    docker.pull(&image)?;
    let ways = scene.sent()?;
    ensure!(
        ways.direct >= image.bytes() && ways.origin == 0,
        "it came from the registry itself: {ways:?}"
    );
    scene.ensure_discreet()?;
    drop(docker);
    scene.passed();
    Ok(())
}

/// Where the node shares credentials of its own, private images of Docker Hub come through the mirror, once.
#[test]
fn docker_pulls_private_images_by_the_nodes_credentials() -> Result<()> {
    let scene = Scene::sharing(FAST)?;
    let image = scene.image("bb", "gzip")?;
    scene.setup("docker", &[])?;
    let docker = Docker::start(&scene)?;
    docker.pull(&image)?;
    let cold = scene.sent()?;
    cold.ensure_through(&image)?;
    docker.remove(&image)?;
    docker.pull(&image)?;
    scene.sent()?.since(cold).ensure_none()?;
    scene.ensure_discreet()?;
    drop(docker);
    scene.passed();
    Ok(())
}

/// Docker trusts the authority of the forward proxy for one registry.
const TRUST: [&str; 4] = ["--ca", "/pki/interception-ca.pem", "--registry", UPSTREAM];

/// Docker behind the forward proxy.
fn set_up_forward(scene: &Scene, trust: &[&str]) -> Result<()> {
    scene.write("etc/docker/daemon.json", "{}\n")?;
    let forward = format!("http://{FORWARD}");
    scene.setup("docker", &[&["--proxy", forward.as_str()][..], trust].concat())
}

/// Registries that Docker knows no mirror for, private ones among them: through the forward proxy, by the files that setup
/// writes. The second pull costs the registry nothing, and an anonymous caller gets nothing of what is held.
#[test]
fn docker_pulls_private_images_through_the_forward_proxy() -> Result<()> {
    let scene = Scene::forwarding(Visibility::Private, FAST)?;
    let image = scene.image("bb", "gzip")?;
    set_up_forward(&scene, &TRUST)?;
    let docker = Docker::start(&scene)?;
    let name = reference(&image);
    let pull = || docker.finish_pull_of(&name, docker.start_pull_of(&name)?, &image);

    ensure!(pull().is_err(), "docker without credentials");
    run(&mut docker.client(&["login", "--username", USER, "--password", PASSWORD, UPSTREAM]))?;
    pull()?;
    let cold = scene.sent()?;
    ensure!(
        cold.origin == 0 && cold.direct >= image.bytes() && cold.direct < image.bytes() * 11 / 10,
        "{cold:?}"
    );
    docker.remove_by(&name)?;
    pull()?;
    let warm = scene.sent()?.since(cold);
    ensure!(warm.direct < image.bytes() / 10, "the second pull: {warm:?}");
    docker.remove_by(&name)?;
    run(&mut docker.client(&["logout", UPSTREAM]))?;
    ensure!(
        pull().is_err(),
        "what is held was given to a caller without credentials"
    );

    scene.ensure_discreet()?;
    drop(docker);
    scene.passed();
    Ok(())
}

/// A proxy that dies in the middle and is started again, as systemd does, costs Docker a pause: the pull goes on. While the
/// process is away nothing can be pulled, since a client of a proxy has no other way; then everything can.
#[test]
fn the_forward_proxy_dies_in_mid_blob() -> Result<()> {
    let mut scene = Scene::forwarding(Visibility::Public, SLOWER)?;
    let image = scene.image("bb", "gzip")?;
    set_up_forward(&scene, &TRUST)?;
    let docker = Docker::start(&scene)?;
    let name = reference(&image);

    let pull = docker.start_pull_of(&name)?;
    scene.kill_proxy_at(&image, 30)?;
    scene.restart_proxy()?;
    docker.finish_pull_of(&name, pull, &image)?;
    docker.remove_by(&name)?;

    scene.proxy.process().kill()?;
    let mut pull = docker.start_pull_of(&name)?;
    let refused = pull.success(PULL);
    let said = pull.log()?;
    ensure!(
        refused.is_err() && said.contains(FORWARD),
        "with nobody at {FORWARD} docker said: {said}"
    );
    scene.restart_proxy()?;
    let before = scene.sent()?;
    docker.finish_pull_of(&name, docker.start_pull_of(&name)?, &image)?;
    let again = scene.sent()?.since(before);
    ensure!(
        again.direct < image.bytes() / 10,
        "what the store had was fetched again: {again:?}"
    );
    drop(docker);
    scene.passed();
    Ok(())
}

/// Tunnels that nobody looks into: Docker's TLS and its login reach the registry, and nothing of it is seen or kept.
#[test]
fn docker_pulls_through_blind_tunnels() -> Result<()> {
    let scene = Scene::tunnelling(Visibility::Private, FAST)?;
    let image = scene.image("bb", "gzip")?;
    set_up_forward(&scene, &[])?;
    let docker = Docker::start(&scene)?;
    let name = reference(&image);
    let pull = || docker.finish_pull_of(&name, docker.start_pull_of(&name)?, &image);

    ensure!(pull().is_err(), "docker without credentials");
    run(&mut docker.client(&["login", "--username", USER, "--password", PASSWORD, UPSTREAM]))?;
    pull()?;
    let cold = scene.sent()?;
    ensure!(cold.origin == 0 && cold.direct >= image.bytes(), "{cold:?}");
    docker.remove_by(&name)?;
    pull()?;
    let second = scene.sent()?.since(cold);
    ensure!(
        second.direct >= image.bytes(),
        "the registry serves each pull: {second:?}"
    );
    let metrics = scene.proxy.metrics()?;
    let passed = metrics.sum("darter_proxy_forward_passed_bytes_total", &[]);
    #[expect(clippy::cast_precision_loss, reason = "an image of a megabyte")]
    let both = 2.0 * image.bytes() as f64;
    ensure!(
        passed >= both && metrics.sum("darter_proxy_received_bytes_total", &[]) == 0.0,
        "{passed} bytes of {both} went through tunnels\n{}",
        metrics.text()
    );
    scene.ensure_discreet()?;
    drop(docker);
    scene.passed();
    Ok(())
}

/// containerd sends its user's credentials to a mirror that asks for them: private images come through the proxy, once,
/// and what it holds is still the user's alone.
#[test]
fn containerd_pulls_private_images_through_the_mirror() -> Result<()> {
    let scene = Scene::start(Visibility::Private, FAST)?;
    let image = scene.image("bb", "gzip")?;
    let user = format!("{USER}:{PASSWORD}");
    let node = |name: &str| -> Result<Containerd> {
        let folder = scene.root().with_file_name(name);
        let node = Containerd::start(scene.node(), &folder, &scene.memory(name))?;
        node.set_hosts(&scene.origin.url(), &[MIRROR])?;
        Ok(node)
    };
    let mut first = node("first")?;
    first.fetch_as(&image, &user)?.wait()?;
    first.verify(&image)?;
    let cold = scene.sent()?;
    cold.ensure_through(&image)?;
    ensure!(cold.origin < 2 * image.bytes(), "it came once: {cold:?}");

    let mut second = node("second")?;
    ensure!(
        second.fetch(&image)?.wait().is_err(),
        "an anonymous caller got it"
    );
    second.fetch_as(&image, &user)?.wait()?;
    second.verify(&image)?;
    scene.sent()?.since(cold).ensure_none()?;
    drop((first, second));
    scene.passed();
    Ok(())
}

/// A part of a content as stargz-snapshotter and SOCI ask for it; the head and the body of the answer.
fn part(scene: &Scene, image: &Image, range: &str, headers: &[&str]) -> Result<(String, Vec<u8>)> {
    let digest = image
        .layers
        .first()
        .map(|layer| layer.digest.as_str())
        .unwrap_or_default();
    let body = scene.write("body", "")?;
    let mut curl = scene.node().command("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--dump-header",
        "-",
        "--range",
        range,
        "--output",
    ]);
    curl.arg(&body);
    for header in headers {
        curl.args(["--header", header]);
    }
    let head = output(curl.arg(format!("{MIRROR}/v2/{}/blobs/{digest}", image.repository)))?;
    Ok((head.to_ascii_lowercase(), std::fs::read(body)?))
}

/// The requests of the lazy snapshotters, cold and warm: a probe of two bytes, parts, and several parts at once.
/// stargz names the registry by a header, SOCI not at all.
#[test]
fn lazy_readers_get_the_parts_that_they_ask_for() -> Result<()> {
    let scene = Scene::start(Visibility::Public, FAST)?;
    let image = scene.image("mid", "gzip")?;
    let layer = image.layers.first().expect("the image has layers").clone();
    let whole = std::fs::read(scene.stored(&layer)?)?;
    let stargz: &[&str] = &["X-Darter-Registry: upstream.test", "Accept-Encoding: identity"];
    for headers in [stargz, &[]] {
        for (range, start, end) in [("0-1", 0, 2), ("1000000-1065535", 1_000_000, 1_065_536)] {
            let (head, body) = part(&scene, &image, range, headers)?;
            ensure!(head.starts_with("http/1.1 206"), "{head}");
            let told = format!("content-range: bytes {range}/{}\r\n", layer.size);
            ensure!(
                head.contains(&told) && head.contains("accept-ranges: bytes"),
                "{head}"
            );
            ensure!(body == whole[start..end], "{range} has wrong bytes");
        }
        let (head, body) = part(&scene, &image, "0-3,500000-500007", headers)?;
        ensure!(head.starts_with("http/1.1 206"), "{head}");
        ensure!(
            head.contains("content-type: multipart/byteranges; boundary="),
            "{head}"
        );
        for expected in [&whole[0..4], &whole[500_000..500_008]] {
            let found = body.windows(expected.len()).any(|window| window == expected);
            ensure!(found, "a part is missing");
        }
    }
    let ways = scene.sent()?;
    ensure!(ways.direct == 0 && ways.origin > 0, "{ways:?}");
    scene.passed();
    Ok(())
}
