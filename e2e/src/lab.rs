//! One test's world: a network and a directory, both gone at its end.
//!
//! Logs of a test that failed are kept, and the end of each is printed: what a process said is what one needs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::{command, run, tail};
use crate::netns::{Namespace, Network, is_running, owner};
use crate::{scratch, tools};

/// Lines of each log that a failed test prints.
const LINES_SHOWN: usize = 25;

/// What four nodes hold and one unpacks of an image of 200 MB, several times over.
const MEMORY_BYTES: u64 = 4 << 30;
/// Marks a folder whose logs someone may want to read.
const KEPT: &str = "kept";

/// A network and a directory. Call [`Lab::passed`] at the end of the test.
#[derive(Debug)]
pub struct Lab {
    network: Network,
    folder: PathBuf,
    memory: PathBuf,
    passed: bool,
}

impl Lab {
    /// Makes an empty one; installs tools that are missing.
    ///
    /// # Errors
    /// When the user is not root, or a tool cannot be had.
    pub fn start() -> Result<Self> {
        tools::ensure_ready()?;
        remove_ended(|folder| !folder.join(KEPT).exists());
        let network = Network::create()?;
        // Short: a unix socket's path has at most 107 bytes.
        let folder = std::env::temp_dir().join(network.prefix());
        let memory = scratch::memory(MEMORY_BYTES)
            .map_or_else(|| folder.clone(), |place| place.join(network.prefix()));
        for folder in [&folder, &memory] {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(Self {
            network,
            folder,
            memory,
            passed: false,
        })
    }

    /// Adds a host at 10.77.0.`octet` and its directory.
    ///
    /// # Errors
    /// When the name or the address is taken.
    pub fn host(&mut self, name: &str, octet: u8) -> Result<Namespace> {
        std::fs::create_dir_all(self.folder_of(name))?;
        self.network.add(name, octet)
    }

    /// The lab's directory.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The directory of one host.
    pub fn folder_of(&self, host: &str) -> PathBuf {
        self.folder.join(host)
    }

    /// The directory for one host's images and snapshots: in memory where there is enough of it.
    pub fn memory_of(&self, host: &str) -> PathBuf {
        self.memory.join(format!("{host}-content"))
    }

    /// The test reached its end: nothing needs to be kept. Call it with everything that runs in the lab dropped
    /// or about to be.
    pub fn passed(&mut self) {
        self.passed = true;
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let kept = std::env::var_os("DARTER_E2E_KEEP").is_some();
        if !self.passed {
            print_logs(&self.folder);
        }
        unmount_below(&self.folder);
        unmount_below(&self.memory);
        if let Err(error) = remove_bulk_content(&self.memory, &self.folder) {
            eprintln!("e2e: cannot clear {}: {error}", self.memory.display());
        }
        let cleaned = if self.passed && !kept {
            std::fs::remove_dir_all(&self.folder)
        } else {
            eprintln!("e2e: logs are kept in {}", self.folder.display());
            remove_bulk(&self.folder).and_then(|()| std::fs::write(self.folder.join(KEPT), ""))
        };
        if let Err(error) = cleaned {
            eprintln!("e2e: cannot clear {}: {error}", self.folder.display());
        }
    }
}

fn print_logs(folder: &Path) {
    for path in logs(folder) {
        let text = std::fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        eprintln!("--- the end of {}\n{}", path.display(), tail(&text, LINES_SHOWN));
    }
}

/// Log files of the lab and of its hosts, sorted by name.
fn logs(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in entries(folder) {
        if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        } else if path.is_dir() {
            found.extend(
                entries(&path)
                    .into_iter()
                    .filter(|path| path.extension().is_some_and(|e| e == "log")),
            );
        }
    }
    found.sort();
    found
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).collect()
}

/// Keeps logs and configurations of each host, not images and snapshots.
fn remove_bulk(folder: &Path) -> std::io::Result<()> {
    for host in entries(folder).iter().filter(|path| path.is_dir()) {
        for bulk in entries(host).iter().filter(|path| path.is_dir()) {
            std::fs::remove_dir_all(bulk)?;
        }
    }
    Ok(())
}

/// Removes the memory folder, unless it is the lab's own, which is cleared by itself.
fn remove_bulk_content(memory: &Path, folder: &Path) -> std::io::Result<()> {
    if memory == folder {
        Ok(())
    } else {
        std::fs::remove_dir_all(memory)
    }
}

/// Container root file systems outlive a containerd that was killed.
fn unmount_below(folder: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut points: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    points.reverse();
    for point in points
        .into_iter()
        .filter(|point| Path::new(point).starts_with(folder))
    {
        if let Err(error) = run(&mut command(["umount", "--lazy", point])) {
            eprintln!("e2e: {error:#}");
        }
    }
}

/// Removes what killed runs left behind, and the logs that earlier tests kept.
pub fn remove_kept() {
    remove_ended(|_| true);
}

/// Removes the folders of ended processes that `which` takes.
fn remove_ended(which: impl Fn(&Path) -> bool) {
    let places = std::iter::once(std::env::temp_dir()).chain(scratch::memory(0).map(Path::to_owned));
    for path in places.flat_map(|place| entries(&place)) {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if owner(&name).is_some_and(|pid| !is_running(pid)) && which(&path) {
            unmount_below(&path);
            // Another run may be clearing up the same one.
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}
