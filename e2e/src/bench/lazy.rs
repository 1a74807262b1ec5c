//! Images that are read while they are fetched: against a full pull, and against the real nydusd in the same run.
//!
//! Both readers have the node's proxy behind them, which holds the image, unless a case is about what leaves the registry. They
//! take turns; what the kernel keeps of a file is dropped before each measurement.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{Advice, fadvise};

use super::Options;
use super::report::{Better, Report};
use super::stats::{float, median, ratio};
use crate::clock::now;
use crate::command::{command, output};
use crate::containerd::Containerd;
use crate::host::together;
use crate::image::{Set, prepare};
use crate::nydus::{Daemon, Mounted, Nodes, Through};
use crate::shape::{Cap, limit_upload_fairly};

const TAG: &str = "nydus";
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";
/// Files from this length on are large.
const LARGE: u64 = 128 << 10;
const PAGE: u64 = 4096;
const WARM_READS: usize = 4000;
const COLD_READS: usize = 100;
const READ: usize = 1 << 20;
/// What a registry far away sends.
const LINK_MBIT: u32 = 100;
const IMPORTS: &str =
    "import json, asyncio, xml.dom.minidom, email.message, http.client, unittest, decimal; print('here')";

const DRIVERS: [Driver; 2] = [
    Driver {
        name: "erofs",
        random: 3.0,
        walk: 1.5,
    },
    Driver {
        name: "fuse",
        random: 1.0,
        walk: 0.8,
    },
];

/// Who shows the tree, and what it must reach.
struct Driver {
    name: &'static str,
    random: f64,
    walk: f64,
}

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    if options.wants("start") {
        start(report)?;
    }
    if options.wants("origin") {
        origin(report)?;
    }
    if DRIVERS.iter().any(|driver| options.wants(driver.name)) {
        let nodes = Nodes::start(1)?;
        nodes.convert(TAG, &[])?;
        // The proxy has it from here on.
        read_all(&files(nodes.mount(0, TAG, &[])?.point(), 0)?)?;
        for driver in DRIVERS.iter().filter(|driver| options.wants(driver.name)) {
            beside_nydusd(&nodes, driver, options.runs(5), report)?;
        }
        nodes.passed();
    }
    Ok(())
}

/// The first words of a container, over a link that binds: lazily, and after a pull.
fn start(report: &mut Report) -> Result<()> {
    let nodes = Nodes::start(2)?;
    nodes.convert(TAG, &[])?;
    let image = prepare(Set::Lazy)?.image("lazy", "gzip")?.clone();
    let receivers = [
        nodes.host(0)?.clone(),
        nodes.host(1)?.clone(),
        nodes.seed.host().clone(),
    ];
    limit_upload_fairly(nodes.registry.host()?, Cap::mbit(LINK_MBIT), &receivers)?;

    let begin = now();
    let mounted = nodes.mount(0, TAG, &[])?;
    import(mounted.point())?;
    let lazily = begin.elapsed().as_secs_f64();
    drop(mounted);

    let host = nodes.host(1)?.clone();
    let (folder, content) = nodes.folders_of(&host);
    let mut containerd = Containerd::start(&host, &folder, &content)?;
    containerd.set_hosts(&nodes.registry.url(), &[])?;
    containerd.set_up()?;
    let begin = now();
    containerd.pull(&image)?.wait()?;
    let said = containerd.run(&image, &["/usr/bin/python3", "-c", IMPORTS])?;
    let pulled = begin.elapsed().as_secs_f64();
    ensure!(said.trim() == "here", "the container said {said}");
    let lower = Better::Lower;
    report.target(
        "start",
        "start_vs_full_pull",
        lazily / pulled,
        "ratio",
        lower,
        0.35,
    );
    report.note("start", "start_s", lazily, "s", lower);
    report.note("start", "full_pull_s", pulled, "s", lower);
    drop(containerd);
    nodes.passed();
    Ok(())
}

/// What leaves the registry when four nodes read the same at once.
fn origin(report: &mut Report) -> Result<()> {
    let nodes = Nodes::start(4)?;
    nodes.convert(TAG, &[])?;
    let mounts = (0..4)
        .map(|node| nodes.mount(node, TAG, &[]))
        .collect::<Result<Vec<_>>>()?;
    let served = |node: usize| -> Result<f64> {
        let proxy = nodes.proxies.get(node).context("a proxy for each node")?;
        Ok(proxy.metrics()?.sum("darter_proxy_served_bytes_total", &[]))
    };
    let before = (0..4).map(served).collect::<Result<Vec<_>>>()?;
    let sent_before = sent(&nodes)?;
    let hosts: Vec<_> = (0..4)
        .map(|node| nodes.host(node).cloned())
        .collect::<Result<_>>()?;
    let points: Vec<_> = mounts.iter().map(|mounted| mounted.point().to_owned()).collect();
    together(
        &hosts,
        |index| points.get(index).cloned().context("a mount for each node"),
        |point| import(&point),
    )?;
    let mut read: f64 = 0.0;
    for (node, before) in before.iter().enumerate() {
        read = read.max(served(node)? - before);
    }
    let sent = sent(&nodes)? - sent_before;
    let lower = Better::Lower;
    report.target(
        "origin-n4",
        "origin_bytes_over_read",
        sent / read,
        "ratio",
        lower,
        1.02,
    );
    report.note("origin-n4", "read_mib", read / float(1 << 20), "MiB", lower);
    drop(mounts);
    nodes.passed();
    Ok(())
}

/// Bytes of the image's blobs that left the registry.
fn sent(nodes: &Nodes) -> Result<f64> {
    let (sent, blobs) = (nodes.sent()?, nodes.blobs(TAG)?);
    let of = |digest: &String| sent.get(digest).copied().unwrap_or_default();
    Ok(float(blobs.keys().map(of).sum()))
}

/// What is measured of both readers, each time in turns.
#[derive(Default)]
struct Series {
    walk: Vec<f64>,
    import: Vec<f64>,
    cold: Vec<f64>,
    random: Vec<f64>,
    sequential: Vec<f64>,
    peak: Vec<f64>,
}

fn beside_nydusd(nodes: &Nodes, driver: &Driver, runs: usize, report: &mut Report) -> Result<()> {
    let (mut ours, mut theirs) = (Series::default(), Series::default());
    for run in 0..runs {
        // Each comes first as often as the other one.
        for own in [run % 2 == 0, run % 2 == 1] {
            for part in [Part::Import, Part::Warm] {
                if own {
                    let mut mounted = nodes.mount(0, TAG, &["--driver", driver.name])?;
                    part.measure(mounted.point().to_owned().as_path(), &mut ours)?;
                    ours.peak.push(peak_mib(&mut mounted)?);
                } else {
                    let daemon = Daemon::start(nodes, 0, TAG, Through::Forward)?;
                    part.measure(daemon.point(), &mut theirs)?;
                }
            }
        }
    }
    let (case, higher, lower) = (driver.name, Better::Higher, Better::Lower);
    let imports = ratio(&ours.import, &theirs.import);
    report.target(case, "import_vs_nydusd", imports, "ratio", lower, 1.1);
    // Times: how much longer the other one takes.
    for (metric, ours, theirs, target) in [
        (
            "warm_random_4k_vs_nydusd",
            &ours.random,
            &theirs.random,
            driver.random,
        ),
        (
            "warm_sequential_vs_nydusd",
            &ours.sequential,
            &theirs.sequential,
            0.9,
        ),
        ("cold_random_4k_vs_nydusd", &ours.cold, &theirs.cold, 1.2),
        ("metadata_walk_vs_nydusd", &ours.walk, &theirs.walk, driver.walk),
    ] {
        report.target(case, metric, ratio(theirs, ours), "ratio", higher, target);
    }
    let peak = ours.peak.iter().copied().fold(0.0, f64::max);
    report.target(case, "rss_mib", peak, "MiB", lower, 64.0);
    report.note(case, "import_s", median(&ours.import), "s", lower);
    report.note(case, "nydusd_import_s", median(&theirs.import), "s", lower);
    Ok(())
}

/// What is measured on one mount.
#[derive(Clone, Copy)]
enum Part {
    /// A program, on a mount that nobody has read.
    Import,
    /// Names, a few bytes here and there, and then what is on disk.
    Warm,
}

impl Part {
    fn measure(self, point: &Path, series: &mut Series) -> Result<()> {
        std::fs::write(DROP_CACHES, "3").context("cannot drop caches")?;
        if let Self::Import = self {
            let begin = now();
            import(point)?;
            series.import.push(begin.elapsed().as_secs_f64());
            return Ok(());
        }
        let begin = now();
        let files = files(point, LARGE)?;
        series.walk.push(begin.elapsed().as_secs_f64());
        series.cold.push(random(&files, COLD_READS)?);
        read_all(&files)?;
        series.random.push(random(&files, WARM_READS)?);
        series.sequential.push(read_all(&files)?);
        Ok(())
    }
}

/// Python from the mount, as a container starts it.
fn import(point: &Path) -> Result<()> {
    let mut python = command(["chroot"]);
    python.arg(point).args(["/usr/bin/python3", "-c", IMPORTS]);
    let said = output(&mut python)?;
    ensure!(said.trim() == "here", "it said {said}");
    Ok(())
}

/// Looks at every name; the files of at least so many bytes.
fn files(point: &Path, length: u64) -> Result<Vec<(PathBuf, u64)>> {
    let (mut folders, mut found) = (vec![point.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let metadata = std::fs::symlink_metadata(&path)?;
            if metadata.is_dir() {
                folders.push(path);
            } else if metadata.is_file() && metadata.len() >= length.max(1) {
                found.push((path, metadata.len()));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Reads all of the files; seconds.
fn read_all(files: &[(PathBuf, u64)]) -> Result<f64> {
    let mut buffer = vec![0; READ];
    let opened = open(files)?;
    let begin = now();
    for (file, length) in &opened {
        let mut at = 0;
        while at < *length {
            let read = file.read_at(&mut buffer, at)? as u64;
            ensure!(read > 0, "a file ended early");
            at += read;
        }
    }
    Ok(begin.elapsed().as_secs_f64())
}

/// Reads so many pages in an order that is always the same; seconds.
fn random(files: &[(PathBuf, u64)], reads: usize) -> Result<f64> {
    let opened = open(files)?;
    for (file, _) in &opened {
        fadvise(file, 0, None, Advice::Random)?;
    }
    let mut buffer = [0; 4096];
    let mut state: u64 = 1;
    let begin = now();
    for _ in 0..reads {
        // A linear congruential generator: its upper bits look random.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let many = opened.len().max(1) as u64;
        let index = usize::try_from((state >> 33) % many)?;
        let (file, length) = opened.get(index).context("there are large files")?;
        let page = (state >> 40) % (length / PAGE).max(1);
        file.read_at(&mut buffer, page * PAGE)?;
    }
    Ok(begin.elapsed().as_secs_f64())
}

/// The files, with nothing of them in the kernel.
fn open(files: &[(PathBuf, u64)]) -> Result<Vec<(File, u64)>> {
    let open = |(path, length): &(PathBuf, u64)| {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
        Ok((file, *length))
    };
    files.iter().map(open).collect()
}

/// Most memory that the bridge ever had.
fn peak_mib(mounted: &mut Mounted) -> Result<f64> {
    let path = format!("/proc/{}/status", mounted.process().id());
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .context("a process has a peak")?;
    Ok(float(kib) / 1024.0)
}
