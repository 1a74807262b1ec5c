//! Real clients other than containerd, each with the files that `darter setup` wrote for it: podman, buildah, skopeo,
//! Docker and the builds inside it. Cold, warm, private, and with Darter dying in the middle.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use darter_e2e::clients::{
    FORWARD, PASSWORD, Scene, UPSTREAM, UPSTREAM_WITH_PORT, USER, Visibility, verify_layout,
};
use darter_e2e::command::{output, run};
use darter_e2e::containerd::Containerd;
use darter_e2e::darter::MIRROR;
use darter_e2e::docker::{Docker, hub_name};
use darter_e2e::image::Image;
use darter_e2e::process::Process;

const FAST: u32 = 1000;
/// Slow enough for a pull of 200 MB to have a middle.
const SLOW: u32 = 300;
const PULL: Duration = Duration::from_secs(300);

/// Mirrors for containers/image: an entry that was there, which setup gave the proxy as its first mirror.
fn set_up_containers(scene: &Scene) -> Result<()> {
    let entry = format!(
        "[[registry]]\nlocation = \"{UPSTREAM}\"\n\n[[registry]]\nlocation = \"{UPSTREAM_WITH_PORT}\"\n"
    );
    scene.write("etc/containers/registries.conf", &entry)?;
    let registries = ["--registry", UPSTREAM, "--registry", UPSTREAM_WITH_PORT];
    scene.setup("podman", &registries)
}

fn reference(image: &Image) -> String {
    reference_at(UPSTREAM, image)
}

fn reference_at(registry: &str, image: &Image) -> String {
    format!("{registry}/{}:{}", image.repository, image.tag)
}

/// `skopeo copy` of an image into an OCI layout, which keeps every byte as it came.
fn skopeo(scene: &Scene, image: &Image, layout: &Path) -> Command {
    skopeo_at(UPSTREAM, scene, image, layout)
}

fn skopeo_at(registry: &str, scene: &Scene, image: &Image, layout: &Path) -> Command {
    let mut skopeo = scene.command("skopeo");
    skopeo.arg("--registries-conf");
    skopeo.arg(scene.root().join("etc/containers/registries.conf"));
    skopeo.args([
        "copy",
        "--quiet",
        &format!("docker://{}", reference_at(registry, image)),
    ]);
    skopeo.arg(format!("oci:{}:{}", layout.display(), image.tag));
    skopeo
}

/// A command of podman or buildah with a storage of its own.
fn storing(scene: &Scene, program: &str) -> Command {
    let folder = scene.memory(program);
    let mut command = scene.command(program);
    command
        .env(
            "CONTAINERS_REGISTRIES_CONF",
            scene.root().join("etc/containers/registries.conf"),
        )
        .arg("--root")
        .arg(folder.join("root"))
        .arg("--runroot")
        .arg(folder.join("run"))
        .args(["--storage-driver", "vfs"]);
    command
}

#[test]
fn podman_buildah_and_skopeo_pull_through_the_mirror() -> Result<()> {
    let mut scene = Scene::start(Visibility::Public, FAST)?;
    let image = scene.image("bb", "gzip")?;
    set_up_containers(&scene)?;

    let cold = scene.memory("cold");
    run(&mut skopeo(&scene, &image, &cold))?;
    verify_layout(&cold, &image)?;
    let before = scene.sent()?;
    before.ensure_through(&image)?;

    let mut podman = storing(&scene, "podman");
    run(podman.args([
        "--cgroup-manager",
        "cgroupfs",
        "pull",
        "--quiet",
        &reference(&image),
    ]))?;
    let mut inspect = storing(&scene, "podman");
    let said = output(inspect.args([
        "image",
        "inspect",
        "--format",
        "{{.Digest}} {{.Id}}",
        &reference(&image),
    ]))?;
    let id = image.config.digest.trim_start_matches("sha256:");
    ensure!(
        said.trim() == format!("{} {id}", image.manifest.digest),
        "podman holds '{said}'"
    );

    run(storing(&scene, "buildah").args(["from", "--quiet", "--name", "work", &reference(&image)]))?;
    let mut inspect = storing(&scene, "buildah");
    let said = output(inspect.args(["inspect", "--format", "{{.FromImageDigest}}", "work"]))?;
    ensure!(
        said.trim() == image.manifest.digest,
        "buildah started from '{said}'"
    );
    scene.sent()?.since(before).ensure_none()?;

    let port = scene.memory("port");
    run(&mut skopeo_at(UPSTREAM_WITH_PORT, &scene, &image, &port))?;
    verify_layout(&port, &image)?;
    ensure!(
        scene.sent()?.direct == 0,
        "a registry with a port was asked past the proxy"
    );

    scene.proxy.process().kill()?;
    let gone = scene.memory("gone");
    run(&mut skopeo(&scene, &image, &gone))?;
    verify_layout(&gone, &image)?;
    ensure!(
        scene.sent()?.direct >= image.bytes(),
        "with Darter gone the registry itself is asked"
    );
    scene.passed();
    Ok(())
}

/// A release without a fallback of its own for blobs may fail the pull that it is in; it never takes wrong bytes, and
/// the next pull is whole.
#[test]
fn skopeo_after_the_proxy_died_in_mid_pull() -> Result<()> {
    let mut scene = Scene::start(Visibility::Public, SLOW)?;
    let image = scene.image("mid", "gzip")?;
    set_up_containers(&scene)?;
    let layout = scene.memory("layout");
    let log = scene.root().with_file_name("skopeo.log");
    let mut pull = Process::start("skopeo", &mut skopeo(&scene, &image, &layout), &log)?;
    scene.kill_proxy_at(&image, 30)?;
    match pull.success(PULL) {
        Ok(()) => verify_layout(&layout, &image)?,
        Err(error) => {
            let said = pull.log()?;
            let because_of_the_proxy = said.contains("unexpected EOF") || said.contains("127.0.0.1:4001");
            ensure!(because_of_the_proxy, "it failed for another reason: {error:#}");
        }
    }
    run(&mut skopeo(&scene, &image, &layout))?;
    verify_layout(&layout, &image)?;
    scene.passed();
    Ok(())
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

/// These clients send a mirror no credentials. The proxy tells them nothing, and they ask the registry themselves;
/// without credentials nobody gets anything.
#[test]
fn private_images_stay_private() -> Result<()> {
    let scene = Scene::start(Visibility::Private, FAST)?;
    let image = scene.image("bb", "gzip")?;
    set_up_containers(&scene)?;
    scene.setup("docker", &[])?;
    let docker = Docker::start(&scene)?;
    let login = format!("{USER}:{PASSWORD}");

    let layout = scene.memory("layout");
    ensure!(
        run(&mut skopeo(&scene, &image, &layout)).is_err(),
        "skopeo without credentials"
    );
    run(skopeo(&scene, &image, &layout).args(["--src-creds", &login]))?;
    verify_layout(&layout, &image)?;

    let anonymous = docker.pull(&image);
    ensure!(anonymous.is_err(), "docker without credentials");
    run(&mut docker.client(&["login", "--username", USER, "--password", PASSWORD]))?;
    docker.pull(&image)?;

    let ways = scene.sent()?;
    ensure!(
        ways.direct >= 2 * image.bytes(),
        "both came from the registry itself: {ways:?}"
    );
    let log = std::fs::read_to_string(scene.root().with_file_name("proxy.log"))?;
    ensure!(!log.contains(PASSWORD), "the proxy's log holds the password");
    drop(docker);
    scene.passed();
    Ok(())
}

/// Registries that Docker knows no mirror for, private ones among them: through the forward proxy, by the files that setup
/// writes. The second pull costs the registry nothing, and an anonymous caller gets nothing of what is held.
#[test]
fn docker_pulls_private_images_through_the_forward_proxy() -> Result<()> {
    let scene = Scene::forwarding(Visibility::Private, FAST)?;
    let image = scene.image("bb", "gzip")?;
    scene.write("etc/docker/daemon.json", "{}\n")?;
    let forward = format!("http://{FORWARD}");
    let trust = ["--ca", "/pki/interception-ca.pem", "--registry", UPSTREAM];
    scene.setup(
        "docker",
        &[&["--proxy", forward.as_str()][..], &trust[..]].concat(),
    )?;
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

    let log = std::fs::read_to_string(scene.root().with_file_name("proxy.log"))?;
    ensure!(!log.contains(PASSWORD), "the proxy's log holds the password");
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
