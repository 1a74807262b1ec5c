//! What is done with a mount, and what it takes.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{Advice, fadvise};

use super::super::stats::float;
use super::IMPORTS;
use crate::clock::now;
use crate::command::{command, output};
use crate::nydus::Mounted;

const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";
const PAGE: u64 = 4096;
const READ: usize = 1 << 20;

/// Lets the kernel forget what it keeps of files.
pub(super) fn drop_caches() -> Result<()> {
    std::fs::write(DROP_CACHES, "3").context("cannot drop caches")
}

/// Python from the mount, as a container starts it; seconds.
pub(super) fn import(point: &Path) -> Result<f64> {
    let begin = now();
    let mut python = command(["chroot"]);
    python.arg(point).args(["/usr/bin/python3", "-c", IMPORTS]);
    let said = output(&mut python)?;
    ensure!(said.trim() == "here", "it said {said}");
    Ok(begin.elapsed().as_secs_f64())
}

/// Looks at every name; the files of at least so many bytes.
pub(super) fn files(point: &Path, length: u64) -> Result<Vec<(PathBuf, u64)>> {
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
pub(super) fn read_all(files: &[(PathBuf, u64)]) -> Result<f64> {
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
pub(super) fn random(files: &[(PathBuf, u64)], reads: usize) -> Result<f64> {
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
pub(super) fn peak_mib(mounted: &Mounted) -> Result<f64> {
    let path = format!("/proc/{}/status", mounted.worker()?);
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .context("a process has a peak")?;
    Ok(float(kib) / 1024.0)
}
