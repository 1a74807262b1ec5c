//! An image of 1 GiB, read whole from a registry whose link binds, by a bridge that has nothing.

use std::fs::File;
use std::io::{BufWriter, Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::super::Options;
use super::super::report::{Better, Report};
use super::super::stats::{float, median};
use super::DRIVERS;
use super::reads::{drop_caches, files, peak_mib, read_all};
use crate::clock::now;
use crate::command::run as run_command;
use crate::nydus::{Kind, Nodes, REPOSITORY, Setting};
use crate::shape::{Cap, limit_upload};

/// 100 MB/s of payload.
const MBIT: u32 = 837;
const FILES: u64 = 8;
const FILE_BYTES: u64 = 128 << 20;
/// What can be compressed is a quarter of each block.
const BLOCK: usize = 16 << 10;
const KIND: Kind = Kind {
    version: 6,
    compressor: "zstd",
};

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let mut nodes = Nodes::with(&Setting::alone(1))?;
    let tree = nodes.folder().join("large");
    make(&tree, options.sized(FILE_BYTES))?;
    nodes.make(&tree, KIND)?;
    std::fs::remove_dir_all(&tree)?;
    std::fs::remove_dir_all(nodes.folder().join(KIND.tag()))?;
    limit_upload(nodes.registry.host()?, Cap::mbit(MBIT))?;
    let blobs = nodes.blobs(&KIND.tag())?;
    let bytes = float(blobs.values().sum());
    let mut link = Vec::new();
    let mut read: [Vec<f64>; 2] = Default::default();
    let mut peak: [f64; 2] = [0.0; 2];
    for _ in 0..options.runs(3) {
        link.push(bytes / fetched(&nodes, blobs.keys())?);
        for ((driver, read), peak) in DRIVERS.iter().zip(&mut read).zip(&mut peak) {
            nodes.empty_proxy(0)?;
            let mounted = nodes.mount(0, &KIND.tag(), &["--driver", driver.name])?;
            drop_caches()?;
            read.push(bytes / read_all(&files(mounted.point(), 1)?)?);
            *peak = peak.max(peak_mib(&mounted)?);
        }
    }
    for ((driver, read), peak) in DRIVERS.iter().zip(&read).zip(peak) {
        let case = format!("large-alone-{}", driver.name);
        let ratio = median(read) / median(&link);
        report.target(
            &case,
            "cold_sequential_vs_link",
            ratio,
            "ratio",
            Better::Higher,
            0.9,
        );
        report.target(&case, "rss_mib", peak, "MiB", Better::Lower, 64.0);
    }
    report.note(
        "large-alone",
        "link_mb_s",
        median(&link) / 1e6,
        "MB/s",
        Better::Higher,
    );
    nodes.passed();
    Ok(())
}

/// Seconds that curl takes for the blobs.
fn fetched<'d>(nodes: &Nodes, digests: impl Iterator<Item = &'d String>) -> Result<f64> {
    let begin = now();
    for digest in digests {
        let url = format!("{}/v2/{REPOSITORY}/blobs/{digest}", nodes.registry.url());
        let mut curl = nodes.host(0)?.command("curl");
        run_command(curl.args([
            "--silent",
            "--show-error",
            "--fail",
            "--output",
            "/dev/null",
            &url,
        ]))?;
    }
    Ok(begin.elapsed().as_secs_f64())
}

/// Files that are mostly random, some of whose blocks are not.
fn make(folder: &Path, length: u64) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut random = File::open("/dev/urandom")?;
    let mut block = vec![0; BLOCK];
    for name in 0..FILES {
        let mut file = BufWriter::new(File::create(folder.join(name.to_string()))?);
        for _ in 0..length / BLOCK as u64 {
            let random_part = block.get_mut(..BLOCK / 4 * 3).context("a block is longer")?;
            random.read_exact(random_part)?;
            file.write_all(&block)?;
        }
        file.flush()?;
    }
    Ok(())
}
