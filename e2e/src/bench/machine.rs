//! The conditions of a run: which machine, and what else it was doing.

use std::fs::read_to_string;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::stats::float;
use crate::command::{command, output};

/// What the machine was doing when a benchmark began.
#[derive(Debug)]
pub(super) struct Conditions {
    load: f64,
    ticks: Ticks,
}

/// `/proc/stat`, first line, in ticks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticks {
    total: u64,
    idle: u64,
    steal: u64,
}

impl Conditions {
    pub(super) fn before() -> Result<Self> {
        Ok(Self {
            load: load()?,
            ticks: Ticks::now()?,
        })
    }

    /// The machine, and what it did since.
    pub(super) fn after(&self) -> Result<Value> {
        let cpus = read_to_string("/proc/cpuinfo")?;
        let models = cpus.lines().filter(|line| line.starts_with("model name"));
        let model = models.clone().next().and_then(|line| line.split(": ").nth(1));
        let memory = read_to_string("/proc/meminfo")?;
        let memory = memory
            .split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse::<u64>().ok());
        Ok(json!({
            "cpu": model.unwrap_or("unknown"),
            "cores": models.count(),
            "memory_gib": (float(memory.unwrap_or(0)) / 1_048_576.0).round(),
            "kernel": read_to_string("/proc/sys/kernel/osrelease")?.trim(),
            "congestion_control": "cubic",
            "load_before": self.load,
            "load_after": load()?,
            "steal": (self.ticks.until_now()?.steal * 1000.0).round() / 1000.0,
        }))
    }
}

/// Shares of all cores' time, 0 to 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shares {
    pub(super) busy: f64,
    pub(super) steal: f64,
}

impl Ticks {
    pub(super) fn now() -> Result<Self> {
        let text = read_to_string("/proc/stat")?;
        let line = text.lines().next().context("/proc/stat is empty")?;
        let fields: Vec<u64> = line
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let field = |index: usize| fields.get(index).copied().unwrap_or(0);
        Ok(Self {
            total: fields.iter().take(8).sum(),
            idle: field(3) + field(4),
            steal: field(7),
        })
    }

    /// What the cores did since.
    pub(super) fn until_now(self) -> Result<Shares> {
        let now = Self::now()?;
        let total = float((now.total - self.total).max(1));
        Ok(Shares {
            busy: 1.0 - float(now.idle.saturating_sub(self.idle)) / total,
            steal: float(now.steal - self.steal) / total,
        })
    }
}

fn load() -> Result<f64> {
    let text = read_to_string("/proc/loadavg")?;
    let first = text.split(' ').next().context("/proc/loadavg is empty")?;
    Ok(first.parse()?)
}

/// The commit that was built, with a mark when files differ from it.
pub(super) fn commit() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let describe = [
        "git",
        "describe",
        "--always",
        "--dirty",
        "--abbrev=9",
        "--exclude=*",
    ];
    output(command(describe).current_dir(root))
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}
