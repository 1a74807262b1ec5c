//! The same image in eStargz: layers that can be read file by file, made by stargz's own converter.
//!
//! The converter works on the images of a containerd, so one runs meanwhile, with nothing but its content store in use.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::super::recipe::Recipe;
use crate::command::{command, run};
use crate::process::Process;
use crate::registry::Registry;
use crate::scratch;

const START: Duration = Duration::from_secs(60);
/// More than an image, converted, takes beside itself.
const BYTES: u64 = 2 << 30;

/// Converts the image with the tag `gzip` in the registry, and pushes it with the tag `estargz`.
pub(super) fn convert(recipe: &Recipe, registry: &Registry) -> Result<()> {
    // Short: a unix socket's path has at most 107 bytes.
    let place = scratch::memory(BYTES).map_or_else(std::env::temp_dir, Path::to_owned);
    let folder = place.join(format!("darter-estargz-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let done = convert_in(&folder, recipe, registry);
    std::fs::remove_dir_all(&folder)?;
    done
}

fn convert_in(folder: &Path, recipe: &Recipe, registry: &Registry) -> Result<()> {
    let config = folder.join("config.toml");
    let shown = folder.display();
    let text = format!(
        "version = 2\nroot = \"{shown}/root\"\nstate = \"{shown}/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.devmapper\"]\n\
         [grpc]\naddress = \"{shown}/c.sock\"\n[ttrpc]\naddress = \"{shown}/t.sock\"\n"
    );
    std::fs::write(&config, text)?;
    let mut daemon = command(["setpriv", "--pdeathsig", "KILL", "containerd", "-c"]);
    let mut containerd = Process::start("containerd", daemon.arg(&config), &folder.join("log"))?;
    let client = |program: &str, words: &[&str]| -> Command {
        let mut client = Command::new(program);
        client.arg("--address").arg(folder.join("c.sock")).args(words);
        client
    };
    containerd.ready(START, || run(&mut client("ctr", &["version"])).ok())?;
    let name = |tag: &str| format!("{}/e2e/{}:{tag}", registry.address(), recipe.name);
    let (from, to) = (name("gzip"), name("estargz"));
    let fetch = [
        "content",
        "fetch",
        "--plain-http",
        "--platform",
        "linux/amd64",
        &from,
    ];
    run(&mut client("ctr", &fetch))?;
    let convert = ["images", "convert", "--estargz", "--oci", &from, &to];
    run(&mut client("ctr-remote", &convert))?;
    run(&mut client("ctr", &["images", "push", "--plain-http", &to]))
}
