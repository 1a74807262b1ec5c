//! What processes take of memory, and groups of them that may take no more.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// The most memory that a process ever had, in bytes.
pub(super) fn resident_peak(pid: u32) -> Result<u64> {
    status_of(pid, "VmHWM:")
}

/// The memory that a process has now, in bytes.
pub(super) fn resident(pid: u32) -> Result<u64> {
    status_of(pid, "VmRSS:")
}

fn status_of(pid: u32, name: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: u64 = kib.with_context(|| format!("no {name}"))?.trim().parse()?;
    Ok(kib * 1024)
}

/// A group of processes that share a limit of memory (cgroup v1). Dropping it removes it, once nobody is in it.
#[derive(Debug)]
pub(super) struct MemoryGroup {
    folder: PathBuf,
}

impl MemoryGroup {
    pub(super) fn create(bytes: u64) -> Result<Self> {
        let name = format!("/sys/fs/cgroup/memory/darter-faults-{}", std::process::id());
        let folder = PathBuf::from(name);
        fs::create_dir_all(&folder).context("bars of memory need cgroup v1 with its memory controller")?;
        fs::write(folder.join("memory.limit_in_bytes"), bytes.to_string())?;
        Ok(Self { folder })
    }

    /// Takes a process in. What it has already is counted where it was.
    pub(super) fn take(&self, pid: u32) -> Result<()> {
        Ok(fs::write(self.folder.join("cgroup.procs"), pid.to_string())?)
    }

    /// How often the limit was in the way.
    pub(super) fn refusals(&self) -> Result<u64> {
        let text = fs::read_to_string(self.folder.join("memory.failcnt"))?;
        Ok(text.trim().parse()?)
    }

    /// How often the kernel had to kill somebody.
    pub(super) fn kills(&self) -> Result<u64> {
        let text = fs::read_to_string(self.folder.join("memory.oom_control"))?;
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(count.context("no count of kills")?.trim().parse()?)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Who is still in it goes back to where everybody is.
        let procs = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines() {
            let _ = fs::write("/sys/fs/cgroup/memory/cgroup.procs", pid);
        }
        let _ = fs::remove_dir(&self.folder);
    }
}
