//! The first words of a container over a link that binds: a pull and a start with containerd and runc, by three snapshotters.
//!
//! Each time all begin with nothing: the node's proxy, containerd, and the snapshotter. The times are from the pull's begin to
//! the first line that the container says.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::super::Options;
use super::super::report::{Better, Report};
use super::super::stats::{median, ratio};
use super::{IMPORTS, LINK_MBIT, TAG, drop_caches};
use crate::clock::{now, until};
use crate::containerd::{Containerd, REGISTRY};
use crate::darter::binary;
use crate::nydus::{Nodes, REPOSITORY, Setting};
use crate::process::Process;
use crate::shape::{Cap, limit_upload_fairly};
use crate::stargz;

/// Far longer than a start takes, or the end of what was started.
const PATIENCE: Duration = Duration::from_secs(60);
const CASE: &str = "start-alone";

/// Who gives containerd its snapshots, of which image, and from where.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// All of the ordinary image, through the proxy.
    Full,
    /// `darter snapshotter`: a Nydus image, through the proxy.
    Darter,
    /// stargz-snapshotter: an eStargz image, from the registry.
    Stargz,
}

const WAYS: [Way; 3] = [Way::Full, Way::Darter, Way::Stargz];

impl Way {
    fn snapshotter(self) -> &'static str {
        match self {
            Self::Full => "overlayfs",
            Self::Darter => "darter",
            Self::Stargz => "stargz",
        }
    }

    fn reference(self) -> String {
        let tag = match self {
            Self::Full => "gzip",
            Self::Darter => TAG,
            Self::Stargz => "estargz",
        };
        format!("{REGISTRY}/{REPOSITORY}:{tag}")
    }
}

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let mut nodes = Nodes::with(&Setting::alone(1))?;
    nodes.convert(TAG, &[])?;
    let receivers = [nodes.host(0)?.clone()];
    limit_upload_fairly(nodes.registry.host()?, Cap::mbit(LINK_MBIT), &receivers)?;
    let mut times: [Vec<f64>; 3] = Default::default();
    for run in 0..options.runs(3).max(3) {
        for turn in 0..WAYS.len() {
            let index = (run + turn) % WAYS.len();
            let (Some(way), Some(times)) = (WAYS.get(index), times.get_mut(index)) else {
                continue;
            };
            nodes.empty_proxy(0)?;
            times.push(started(&nodes, *way, run)?);
        }
    }
    let [full, lazily, stargz] = &times;
    let lower = Better::Lower;
    for (metric, other, target) in [
        ("start_vs_full_pull", full, 0.35),
        ("start_vs_stargz", stargz, 1.0),
    ] {
        report.target(CASE, metric, ratio(lazily, other), "ratio", lower, target);
    }
    for (metric, times) in [("start_s", lazily), ("full_pull_s", full), ("stargz_s", stargz)] {
        report.note(CASE, metric, median(times), "s", lower);
    }
    nodes.passed();
    Ok(())
}

/// Seconds to a container's first words.
fn started(nodes: &Nodes, way: Way, run: usize) -> Result<f64> {
    let host = nodes.host(0)?;
    let name = format!("{}-{run}", way.snapshotter());
    let folder = nodes.folders_of(host).0.join(&name);
    // All on the disk: the kernel mounts no EROFS from a file of a memory file system.
    let content = folder.join("content");
    std::fs::create_dir_all(&content)?;
    let socket = folder.join("s.sock");
    let plugin = (way != Way::Full).then_some((way.snapshotter(), socket.as_path()));
    let mut snapshotter = snapshotter(nodes, way, &folder, &content)?;
    if let Some(process) = &mut snapshotter {
        process.ready(PATIENCE, || socket.exists().then_some(()))?;
    }
    let containerd = Containerd::start_with(host, &folder, &content, plugin)?;
    containerd.set_hosts(&nodes.registry.url(), &[])?;
    if way != Way::Stargz {
        containerd.set_up()?;
    }
    drop_caches()?;

    let reference = way.reference();
    let begin = now();
    containerd.pull_for(way.snapshotter(), &reference)?;
    let words = ["/usr/bin/python3", "-c", IMPORTS];
    let container = format!("{}-{name}", host.full_name());
    let mut container = containerd.container(way.snapshotter(), &reference, &container, &words);
    first_line(&mut container)?;
    let seconds = begin.elapsed().as_secs_f64();

    containerd.forget_name(&reference)?;
    until("the end of the mounts", PATIENCE, || {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        Ok((!mounts.contains(&content.display().to_string())).then_some(()))
    })?;
    drop((containerd, snapshotter));
    std::fs::remove_dir_all(&content)?;
    Ok(seconds)
}

/// Runs a program to its end; returns when it has said its first line, which must be the right one.
fn first_line(program: &mut Command) -> Result<()> {
    let mut child = program.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut said = String::new();
    let output = child.stdout.take().context("its output")?;
    BufReader::new(output).read_line(&mut said)?;
    ensure!(said.trim() == "here", "the container said '{said}'");
    ensure!(child.wait()?.success(), "the container failed");
    Ok(())
}

/// The program that gives the snapshots, where containerd does not do it by itself.
fn snapshotter(nodes: &Nodes, way: Way, folder: &Path, content: &Path) -> Result<Option<Process>> {
    let host = nodes.host(0)?;
    let mut program = match way {
        Way::Full => return Ok(None),
        Way::Darter => {
            let mut program = host.command(binary()?);
            program.args(["snapshotter", "--root"]).arg(content.join("s"));
            program.arg("--socket").arg(folder.join("s.sock"));
            program.arg("--containerd").arg(folder.join("c.sock"));
            program
        }
        Way::Stargz => {
            let config = folder.join("stargz.toml");
            let registry = nodes.registry.address();
            let text = format!(
                "no_background_fetch = true\n[[resolver.host.\"{REGISTRY}\".mirrors]]\nhost = \"{registry}\"\n\
                 insecure = true\n"
            );
            std::fs::write(&config, text)?;
            let mut program = host.command(stargz::binary()?);
            program.arg("-root").arg(content.join("s"));
            program.arg("-socket").arg(folder.join("s.sock"));
            program.arg("-config").arg(&config);
            program
        }
    };
    let log = folder.join("snapshotter.log");
    Process::start(way.snapshotter(), &mut program, &log).map(Some)
}
