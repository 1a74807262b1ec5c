//! The first pull of a blob through one node: to disk, proved and to the client at once, against `curl` and `openssl`,
//! which do the same one after the other.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::Options;
use super::blob::{Blob, size_name};
use super::client::Client;
use super::cost::{ended_children, process_tree, this_thread};
use super::report::{Better, Report};
use super::scene::Alone;
use super::stats::{gib, median, millis, ratio};
use crate::clock::now;
use crate::command::run as run_command;
use crate::host::on;

const SIZE: u64 = 1 << 30;
const COST_MAX: f64 = 1.05;
const FIRST_BYTE_MAX_MS: f64 = 20.0;

#[derive(Default)]
struct Samples {
    cpu_per_gib: Vec<f64>,
    seconds: Vec<f64>,
    first_byte_ms: Vec<f64>,
}

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let scene = Alone::start()?;
    let blob = Blob::make(&scene.root, options.sized(SIZE), 1)?;
    let [mut direct, mut darter] = [Samples::default(), Samples::default()];
    by_hand(&scene, &blob, &mut Samples::default())?;
    for _ in 0..options.runs(5) {
        by_hand(&scene, &blob, &mut direct)?;
        first_byte_of_origin(&scene, &blob, &mut direct)?;
        through_node(&scene, &blob, &mut darter)?;
    }
    let case = size_name(blob.size);
    let cost = ratio(&darter.cpu_per_gib, &direct.cpu_per_gib);
    let added = median(&darter.first_byte_ms) - median(&direct.first_byte_ms);
    let lower = Better::Lower;
    report.target(&case, "cpu_vs_curl_openssl", cost, "ratio", lower, COST_MAX);
    report.target(
        &case,
        "first_byte_added_ms",
        added,
        "ms",
        lower,
        FIRST_BYTE_MAX_MS,
    );
    report.note(
        &case,
        "time_vs_curl_openssl",
        ratio(&darter.seconds, &direct.seconds),
        "ratio",
        lower,
    );
    report.note(
        &case,
        "cpu_s_per_gib",
        median(&darter.cpu_per_gib),
        "s/GiB",
        lower,
    );
    let yardstick = median(&direct.cpu_per_gib);
    report.note(&case, "curl_openssl_cpu_s_per_gib", yardstick, "s/GiB", lower);
    let speed = 1.0 / median(&darter.seconds) * gib(blob.size);
    report.note(&case, "gib_per_s", speed, "GiB/s", Better::Higher);
    scene.passed();
    Ok(())
}

fn by_hand(scene: &Alone, blob: &Blob, samples: &mut Samples) -> Result<()> {
    let file = scene.folder("by-hand");
    let url = format!("{}{}", scene.registry.url(), blob.path());
    let (before, start) = (ended_children()?, now());
    let mut curl = scene.host.command("curl");
    run_command(curl.args(["--silent", "--fail", "-o"]).arg(&file).arg(url))?;
    let mut openssl = scene.host.command("openssl");
    run_command(openssl.args(["dgst", "-sha256"]).arg(&file))?;
    samples.note(blob, ended_children()? - before, start.elapsed());
    std::fs::remove_file(&file)?;
    Ok(())
}

fn first_byte_of_origin(scene: &Alone, blob: &Blob, samples: &mut Samples) -> Result<()> {
    let answer = on(&scene.host, || {
        Client::connect(&scene.registry.address)?.get(&blob.path())
    })?;
    samples.first_byte_ms.push(millis(answer.first_byte));
    Ok(())
}

fn through_node(scene: &Alone, blob: &Blob, samples: &mut Samples) -> Result<()> {
    let folder = scene.folder("miss");
    remove(&folder)?;
    let node = scene.node("miss", 0, &[])?;
    let before = process_tree(node.id())?;
    let (answer, client) = on(&scene.host, || {
        let answer = Client::connect(&node.mirror)?.get(&blob.mirror_path())?;
        Ok((answer, this_thread()?))
    })?;
    samples.note(blob, process_tree(node.id())? - before + client, answer.took);
    samples.first_byte_ms.push(millis(answer.first_byte));
    drop(node);
    remove(&folder)
}

impl Samples {
    fn note(&mut self, blob: &Blob, cpu: Duration, took: Duration) {
        self.cpu_per_gib.push(cpu.as_secs_f64() / gib(blob.size));
        self.seconds.push(took.as_secs_f64());
    }
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    Ok(())
}
