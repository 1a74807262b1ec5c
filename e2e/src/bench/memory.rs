//! What a node takes of its machine's memory: idle, and while 200 slow readers hold on to one blob.

use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::Options;
use super::blob::{Blob, size_name};
use super::client::Client;
use super::cost::Memory;
use super::report::{Better, Report};
use super::scene::Alone;
use super::stats::float;
use crate::clock::pause;
use crate::host::on;

const SIZE: u64 = 1 << 30;
const READERS: usize = 200;
/// What each reader takes at a time; a round of all takes as long as it takes, and then the pause.
const READ: usize = 16 * 1024;
const PAUSE: Duration = Duration::from_millis(20);
/// Each reader's rounds: 16 MiB, more than the sockets hold for it.
const ROUNDS: usize = 1024;
const IDLE: Duration = Duration::from_secs(3);
const PERIOD: Duration = Duration::from_millis(50);

const IDLE_MAX_MIB: f64 = 25.0;
const READERS_MAX_MIB: f64 = 128.0;

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let scene = Alone::start()?;
    let blob = Blob::make(&scene.root, options.sized(SIZE).max(64 << 20), 1)?;
    let node = scene.node("memory", 0, &[])?;
    let pid = node.id().to_string();
    let lower = Better::Lower;
    pause(IDLE);
    let idle = Memory::of(&pid)?;
    report.target("idle", "rss_mib", mib(idle.resident), "MiB", lower, IDLE_MAX_MIB);
    report.note("idle", "own_mib", mib(idle.own), "MiB", lower);
    for state in ["cold", "warm"] {
        // The first readers' pull brings the blob to the node.
        let peak = watch(&pid, || on(&scene.host, || read_slowly(&node.mirror, &blob)))?;
        let case = format!("{state}-{READERS}x{}", size_name(blob.size));
        report.target(
            &case,
            "rss_mib",
            mib(peak.resident),
            "MiB",
            lower,
            READERS_MAX_MIB,
        );
        report.note(&case, "own_mib", mib(peak.own), "MiB", lower);
    }
    drop(node);
    scene.passed();
    Ok(())
}

/// The highest of each that is seen while `work` runs.
fn watch(pid: &str, work: impl FnOnce() -> Result<()> + Send) -> Result<Memory> {
    thread::scope(|scope| {
        let worker = scope.spawn(work);
        let mut peak = Memory::of(pid)?;
        while !worker.is_finished() {
            let seen = Memory::of(pid)?;
            peak.resident = peak.resident.max(seen.resident);
            peak.own = peak.own.max(seen.own);
            pause(PERIOD);
        }
        worker
            .join()
            .unwrap_or_else(|_| Err(anyhow!("the readers panicked")))?;
        Ok(peak)
    })
}

fn read_slowly(mirror: &str, blob: &Blob) -> Result<()> {
    let path = blob.mirror_path();
    let begin = |_| {
        let mut client = Client::connect(mirror)?;
        client.begin(&path)?;
        Ok(client)
    };
    let clients: Result<Vec<Client>> = (0..READERS).map(begin).collect();
    let mut clients = clients?;
    for _ in 0..ROUNDS {
        for client in &mut clients {
            client.read_some(READ)?;
        }
        pause(PAUSE);
    }
    Ok(())
}

fn mib(kib: u64) -> f64 {
    float(kib) / 1024.0
}
