//! A program from a mount, with a registry far away: each request comes 20 ms later.
//!
//! Each time the node's proxy and the reader begin with nothing. The real nydusd reads through the same proxy, and without it.

use std::time::Duration;

use anyhow::Result;

use super::super::Options;
use super::super::report::{Better, Report};
use super::super::stats::{median, ratio};
use super::TAG;
use super::reads::{drop_caches, import};
use crate::nydus::{Daemon, Nodes, Setting, Through};

const DELAY: Duration = Duration::from_millis(20);
const CASE: &str = "import-20ms-alone";

/// Who reads.
#[derive(Clone, Copy)]
enum Reader {
    Bridge(&'static str),
    Nydusd(Through),
}

const READERS: [(&str, Reader); 4] = [
    ("erofs_s", Reader::Bridge("erofs")),
    ("fuse_s", Reader::Bridge("fuse")),
    ("nydusd_s", Reader::Nydusd(Through::Forward)),
    ("nydusd_direct_s", Reader::Nydusd(Through::Direct)),
];

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let mut nodes = Nodes::with(&Setting {
        delay: DELAY,
        ..Setting::alone(1)
    })?;
    nodes.convert(TAG, &[])?;
    let mut times: [Vec<f64>; 4] = Default::default();
    for run in 0..options.runs(5) {
        for turn in 0..READERS.len() {
            let index = (run + turn) % READERS.len();
            if let (Some((_, reader)), Some(times)) = (READERS.get(index), times.get_mut(index)) {
                nodes.empty_proxy(0)?;
                times.push(reader.imports(&nodes)?);
            }
        }
    }
    let [erofs, fuse, nydusd, direct] = &times;
    let lower = Better::Lower;
    for (driver, ours) in [("erofs", erofs), ("fuse", fuse)] {
        let case = format!("{CASE}-{driver}");
        for (metric, theirs) in [("import_vs_nydusd", nydusd), ("import_vs_nydusd_direct", direct)] {
            report.target(&case, metric, ratio(ours, theirs), "ratio", lower, 0.9);
        }
    }
    for ((metric, _), times) in READERS.iter().zip(&times) {
        report.note(CASE, metric, median(times), "s", lower);
    }
    nodes.passed();
    Ok(())
}

impl Reader {
    fn imports(self, nodes: &Nodes) -> Result<f64> {
        match self {
            Self::Bridge(driver) => {
                let mounted = nodes.mount(0, TAG, &["--driver", driver])?;
                drop_caches()?;
                import(mounted.point())
            }
            Self::Nydusd(through) => {
                let daemon = Daemon::start(nodes, 0, TAG, through)?;
                drop_caches()?;
                import(daemon.point())
            }
        }
    }
}
