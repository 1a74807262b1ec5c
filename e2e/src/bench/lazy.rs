//! Images that are read while they are fetched: against a full pull, and against the real nydusd in the same run.
//!
//! Readers take turns, and each begins with nothing: their own cache is new for each mount, and what the kernel keeps of files is
//! dropped before each measurement. Where a case is about the reader alone, the node's proxy holds the image; otherwise the
//! proxy is new as well. Nodes without schedulers fetch out of order what is asked for (`pull.onDemand: alone`); cases are named by
//! the mode.

mod far;
mod large;
mod origin;
mod reads;
mod start;

use std::path::Path;

use anyhow::Result;

use super::Options;
use super::report::{Better, Report};
use super::stats::{median, ratio};
use crate::clock::now;
use crate::nydus::{Daemon, Nodes, Setting, Through};

use reads::{drop_caches, files, import, random, read_all};

const TAG: &str = "nydus";
/// Files from this length on are large.
const LARGE: u64 = 128 << 10;
const WARM_READS: usize = 4000;
const COLD_READS: usize = 100;
/// What a registry far away sends.
const LINK_MBIT: u32 = 100;
const IMPORTS: &str =
    "import json, asyncio, xml.dom.minidom, email.message, http.client, unittest, decimal; print('here')";

const DRIVERS: [Driver; 2] = [
    Driver {
        name: "erofs",
        case: "erofs-alone",
        random: 3.0,
        walk: 1.5,
    },
    Driver {
        name: "fuse",
        case: "fuse-alone",
        random: 1.0,
        walk: 0.8,
    },
];

/// Who shows the tree, and what it must reach.
struct Driver {
    name: &'static str,
    case: &'static str,
    random: f64,
    walk: f64,
}

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    if options.wants("start-alone") {
        start::run(options, report)?;
    }
    if DRIVERS.iter().any(|driver| options.wants(driver.case)) {
        let nodes = Nodes::with(&Setting::alone(1))?;
        nodes.convert(TAG, &[])?;
        // The proxy has it from here on.
        read_all(&files(nodes.mount(0, TAG, &[])?.point(), 0)?)?;
        for driver in DRIVERS.iter().filter(|driver| options.wants(driver.case)) {
            beside_nydusd(&nodes, driver, options.runs(5), report)?;
        }
        nodes.passed();
    }
    if options.wants("import-20ms-alone") {
        far::run(options, report)?;
    }
    if options.wants("large-alone") {
        large::run(options, report)?;
    }
    origin::run(options, report)
}

/// What is measured of both readers, each time in turns.
#[derive(Default)]
struct Series {
    walk: Vec<f64>,
    import: Vec<f64>,
    cold: Vec<f64>,
    random: Vec<f64>,
    sequential: Vec<f64>,
}

fn beside_nydusd(nodes: &Nodes, driver: &Driver, runs: usize, report: &mut Report) -> Result<()> {
    let (mut ours, mut theirs) = (Series::default(), Series::default());
    for run in 0..runs {
        // Each comes first as often as the other one.
        for own in [run % 2 == 0, run % 2 == 1] {
            for part in [Part::Import, Part::Warm] {
                if own {
                    let mounted = nodes.mount(0, TAG, &["--driver", driver.name])?;
                    part.measure(mounted.point(), &mut ours)?;
                } else {
                    let daemon = Daemon::start(nodes, 0, TAG, Through::Forward)?;
                    part.measure(daemon.point(), &mut theirs)?;
                }
            }
        }
    }
    let (case, higher, lower) = (driver.case, Better::Higher, Better::Lower);
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
    for (metric, times) in [
        ("import_s", &ours.import),
        ("nydusd_import_s", &theirs.import),
        ("warm_random_s", &ours.random),
        ("nydusd_warm_random_s", &theirs.random),
        ("warm_sequential_s", &ours.sequential),
        ("nydusd_warm_sequential_s", &theirs.sequential),
        ("cold_random_s", &ours.cold),
        ("nydusd_cold_random_s", &theirs.cold),
        ("walk_s", &ours.walk),
        ("nydusd_walk_s", &theirs.walk),
    ] {
        report.note(case, metric, median(times), "s", lower);
    }
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
        drop_caches()?;
        if let Self::Import = self {
            series.import.push(import(point)?);
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
