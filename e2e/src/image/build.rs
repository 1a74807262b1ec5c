//! Builds a set: layers as tars, images as OCI layouts, then a push into a registry's directory.
//!
//! Layer tars stay in the cache, keyed by their recipe, for the next set that has them. A set appears under its
//! final name only when it is whole.

mod estargz;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::recipe::{Layer, Recipe};
use super::{Descriptor, Fixtures, Image, Set};
use crate::clock::now;
use crate::command::{command, output, run};
use crate::registry::Registry;
use crate::scratch;

/// The time that everything in an image bears: what is built twice is equal.
const EPOCH: &str = "1700000000";
const CREATED: &str = "2023-11-14T22:13:20Z";
/// Where Debian's Python looks for packages that are not Debian's.
const SITE_PACKAGES: &str = "usr/local/lib/python3.11/dist-packages";
/// More than a root file system, its packages and its tar take while one is made.
const BOOTSTRAP_BYTES: u64 = 2 << 30;
/// Tags of wheels that run on Debian 12; pip takes them literally.
const PLATFORMS: [&str; 6] = [
    "manylinux_2_35_x86_64",
    "manylinux_2_31_x86_64",
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
];

/// Builds `set` into `folder`.
pub(super) fn build(set: Set, cache: &Path, folder: &Path) -> Result<()> {
    let work = folder.with_extension("unfinished");
    let _ = std::fs::remove_dir_all(&work);
    let store = work.join("registry");
    std::fs::create_dir_all(&store).with_context(|| format!("cannot create {}", store.display()))?;
    let registry = Registry::writer(&store, &work)?;
    let mut images = Vec::new();
    for recipe in set.recipes() {
        let layers = recipe.layers.iter().map(|layer| layer_tar(layer, cache));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let layout = work.join(recipe.name);
        timed(&format!("image {}", recipe.name), || {
            make_layout(recipe, &layers, &layout)
        })?;
        images.push(push(recipe, "gzip", &layout, &registry)?);
        if set.is_lazy() {
            timed(&format!("image {} with eStargz", recipe.name), || {
                estargz::convert(recipe, &registry)
            })?;
            images.push(read_back(recipe, "estargz", &registry)?);
        }
        if recipe.zstd {
            let zstd = work.join(format!("{}-zstd", recipe.name));
            timed(&format!("image {} with zstd", recipe.name), || {
                recompress(&layout, &zstd)
            })?;
            images.push(push(recipe, "zstd", &zstd, &registry)?);
            std::fs::remove_dir_all(&zstd)?;
        }
        std::fs::remove_dir_all(&layout)?;
    }
    drop(registry);
    let fixtures = Fixtures {
        store: PathBuf::new(),
        images,
    };
    std::fs::write(work.join("images.json"), serde_json::to_vec_pretty(&fixtures)?)?;
    std::fs::rename(&work, folder).with_context(|| format!("cannot rename {}", work.display()))
}

/// Tells what is being made, does it, and tells how long it took.
fn timed<T>(what: &str, make: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("e2e: making {what} ...");
    let start = now();
    let made = make().with_context(|| format!("cannot make {what}"))?;
    eprintln!("e2e: made {what} in {:.1} s", start.elapsed().as_secs_f64());
    Ok(made)
}

/// The layer's tar, from the cache or made now.
fn layer_tar(layer: &Layer, cache: &Path) -> Result<PathBuf> {
    let path = cache.join("layers").join(layer.file());
    if path.exists() {
        return Ok(path);
    }
    let scratch = path.with_extension("unfinished");
    let _ = std::fs::remove_dir_all(&scratch);
    std::fs::create_dir_all(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
    let tar = scratch.join("layer.tar");
    match layer {
        Layer::Debian {
            name,
            packages,
            extract,
        } => {
            timed(&format!("layer {name} from Debian packages"), || {
                bootstrap(packages, *extract, &tar)
            })?;
        }
        Layer::Wheels { name, wheels } => {
            timed(&format!("layer {name} from PyPI wheels"), || {
                unpack_wheels(wheels, cache, &scratch, &tar)
            })?;
        }
    }
    std::fs::rename(&tar, &path).with_context(|| format!("cannot keep {}", path.display()))?;
    std::fs::remove_dir_all(&scratch)?;
    Ok(path)
}

/// A root file system of `packages` and what they depend on, from this machine's own package sources.
fn bootstrap(packages: &str, extract: bool, tar: &Path) -> Result<()> {
    let variant = if extract {
        "--variant=extract"
    } else {
        "--variant=minbase"
    };
    let sources = std::fs::File::open(package_sources()?)?;
    let mut bootstrap = command(["mmdebstrap", "--quiet", variant]);
    bootstrap.arg(format!("--include={packages}"));
    // The result is thrown away when the machine fails in between, so dpkg need not sync each file.
    bootstrap.arg("--dpkgopt=force-unsafe-io");
    bootstrap
        .arg("bookworm")
        .arg(tar)
        .arg("-")
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .stdin(sources);
    if let Some(memory) = scratch::memory(BOOTSTRAP_BYTES) {
        bootstrap.env("TMPDIR", memory);
    }
    let done = bootstrap.output().context("cannot start mmdebstrap")?;
    ensure!(
        done.status.success(),
        "mmdebstrap failed:\n{}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

fn package_sources() -> Result<&'static Path> {
    let places = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];
    let found = places.into_iter().map(Path::new).find(|path| path.exists());
    found.context("no package sources in /etc/apt/sources.list.d/debian.sources or /etc/apt/sources.list")
}

/// Downloads the wheels once, and packs what is in them as a layer.
fn unpack_wheels(wheels: &[&str], cache: &Path, scratch: &Path, tar: &Path) -> Result<()> {
    let folder = cache.join("wheels");
    std::fs::create_dir_all(&folder)?;
    let mut download = pip();
    download.args([
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version",
        "3.11",
    ]);
    download.args(PLATFORMS.iter().flat_map(|platform| ["--platform", platform]));
    run(download.arg("--dest").arg(&folder).args(wheels))?;
    let root = scratch.join("root");
    let packages = root.join(SITE_PACKAGES);
    std::fs::create_dir_all(&packages)?;
    for wheel in wheels {
        let file = wheel_file(&folder, wheel)?;
        run(command(["python3", "-m", "zipfile", "-e"])
            .arg(&file)
            .arg(&packages))?;
    }
    run(command(["chmod", "-R", "u=rwX,go=rX"]).arg(&root))?;
    let mut pack = command(["tar", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    pack.arg(format!("--mtime=@{EPOCH}"))
        .arg("-C")
        .arg(&root)
        .arg("-cf")
        .arg(tar)
        .arg(".");
    run(&mut pack)
}

fn pip() -> Command {
    let mut pip = command(["python3", "-m", "pip"]);
    pip.args(["--disable-pip-version-check", "--no-input"]);
    pip
}

/// The file of `name==version`: pip writes a wheel's name with underscores.
fn wheel_file(folder: &Path, wheel: &str) -> Result<PathBuf> {
    let start = wheel.replace('-', "_").replace("==", "-") + "-";
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with(&start) && name.ends_with(".whl") {
            return Ok(path);
        }
    }
    anyhow::bail!("pip left no {start}*.whl in {}", folder.display())
}

/// An OCI layout of the layers, compressed with gzip.
fn make_layout(recipe: &Recipe, layers: &[PathBuf], layout: &Path) -> Result<()> {
    let image = format!("{}:gzip", layout.display());
    run(command(["umoci", "init", "--layout"]).arg(layout))?;
    run(&mut command(["umoci", "new", "--image", &image]))?;
    for layer in layers {
        let add = [
            "umoci",
            "raw",
            "add-layer",
            "--image",
            &image,
            "--history.created",
            CREATED,
        ];
        run(command(add).arg(layer))?;
    }
    let mut config = command(["umoci", "config", "--image", &image, "--created", CREATED]);
    config.args([
        "--architecture",
        "amd64",
        "--os",
        "linux",
        "--history.created",
        CREATED,
    ]);
    config.args(["--config.entrypoint", recipe.entrypoint]);
    config.args([
        "--config.env",
        "PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin",
    ]);
    config.args(["--config.env", &format!("PYTHONPATH=/{SITE_PACKAGES}")]);
    run(&mut config)?;
    run(command(["umoci", "gc", "--layout"]).arg(layout))
}

/// The same image with layers compressed with zstd. Not at the push: skopeo would reuse the gzip layers that the
/// registry has.
fn recompress(layout: &Path, target: &Path) -> Result<()> {
    let (from, to) = (
        format!("oci:{}:gzip", layout.display()),
        format!("oci:{}:zstd", target.display()),
    );
    run(&mut command([
        "skopeo",
        "copy",
        "--quiet",
        "--dest-compress",
        "--dest-compress-format",
        "zstd",
        &from,
        &to,
    ]))
}

/// Pushes the layout and reads back what the registry then has under the tag.
fn push(recipe: &Recipe, tag: &str, layout: &Path, registry: &Registry) -> Result<Image> {
    let from = format!("oci:{}:{tag}", layout.display());
    let to = format!("docker://{}/e2e/{}:{tag}", registry.address(), recipe.name);
    run(&mut command([
        "skopeo",
        "copy",
        "--quiet",
        "--dest-tls-verify=false",
        &from,
        &to,
    ]))?;
    read_back(recipe, tag, registry)
}

/// What the registry has under the tag.
fn read_back(recipe: &Recipe, tag: &str, registry: &Registry) -> Result<Image> {
    let repository = format!("e2e/{}", recipe.name);
    let to = format!("docker://{}/{repository}:{tag}", registry.address());
    let raw = output(&mut command([
        "skopeo",
        "inspect",
        "--raw",
        "--tls-verify=false",
        &to,
    ]))?;
    let manifest: Manifest = serde_json::from_str(&raw).with_context(|| format!("the manifest of {to}"))?;
    let digest = format!(
        "sha256:{}",
        super::hex(&<sha2::Sha256 as sha2::Digest>::digest(&raw))
    );
    let size = u64::try_from(raw.len())?;
    let image = Image {
        repository,
        tag: tag.to_owned(),
        manifest: Descriptor { digest, size },
        config: manifest.config,
        layers: manifest.layers,
    };
    eprintln!(
        "e2e: {} has {:.1} MB in {} layers",
        image.reference(),
        megabytes(&image),
        image.layers.len()
    );
    Ok(image)
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

fn megabytes(image: &Image) -> f64 {
    let kilobytes = u32::try_from(image.bytes() / 1000).unwrap_or(u32::MAX);
    f64::from(kilobytes) / 1000.0
}
