//! `darter doctor` as an operator runs it, and what it says.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// What it found.
#[derive(Debug)]
pub struct Report {
    /// Whether it ended with 0.
    pub healthy: bool,
    value: Value,
}

impl Report {
    /// Runs the command, `darter doctor --json …`, to its end.
    ///
    /// # Errors
    /// When it prints no report; with what it said instead.
    pub fn of(doctor: &mut Command) -> Result<Self> {
        let told = doctor.output().context("darter doctor")?;
        let value = serde_json::from_slice(&told.stdout)
            .with_context(|| String::from_utf8_lossy(&told.stderr).into_owned())?;
        Ok(Self {
            healthy: told.status.success(),
            value,
        })
    }

    /// The state of the last finding of a check; nothing where there is none.
    pub fn state(&self, check: &str) -> Option<&str> {
        self.finding(check)?.get("state")?.as_str()
    }

    /// What was seen by the last finding of a check.
    pub fn seen(&self, check: &str) -> &str {
        let seen = self.finding(check).and_then(|finding| finding.get("seen"));
        seen.and_then(Value::as_str).unwrap_or_default()
    }

    fn finding(&self, check: &str) -> Option<&Value> {
        let findings = self.value.get("findings")?.as_array()?;
        findings
            .iter()
            .rfind(|finding| finding.get("check").is_some_and(|name| name == check))
    }
}
