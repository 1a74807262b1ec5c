//! `darter mount`, `umount`, `snapshotter`, `nydus` and `nydusd`: the program `darter-bridge`, which stands beside this one,
//! takes this one's place.
//!
//! It is a program of its own, so that FUSE and the libraries that read Nydus images stay out of the mirror.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;

const PROGRAM: &str = "darter-bridge";

/// Whatever was typed behind the command: the bridge knows what is right, and has the help.
#[derive(Debug, Args)]
pub(crate) struct Bridge {
    /// `--help` shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

impl Bridge {
    /// Runs the bridge's `command` in place of this process; comes back only if that cannot be.
    pub(crate) fn run(self, command: &str) -> Result<()> {
        let own = std::env::current_exe().context("cannot find the program of this process")?;
        let program = own.with_file_name(PROGRAM);
        let error = Command::new(&program).arg(command).args(self.arguments).exec();
        Err(explain(&program, command, error))
    }
}

fn explain(program: &Path, command: &str, error: std::io::Error) -> anyhow::Error {
    let program = program.display();
    match error.kind() {
        ErrorKind::NotFound => anyhow!(
            "darter {command} needs the program {PROGRAM}, and there is no {program}: install it beside darter \
             (cargo build --release --package darter-nydus-bridge makes it)"
        ),
        _ => anyhow!(error).context(format!("cannot run {program}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_bridge_is_told_with_what_to_do() {
        let missing = explain(
            Path::new("/opt/darter-bridge"),
            "mount",
            ErrorKind::NotFound.into(),
        )
        .to_string();
        assert!(
            missing.contains("/opt/darter-bridge") && missing.contains("install it"),
            "{missing}"
        );
        let other = explain(
            Path::new("/opt/darter-bridge"),
            "mount",
            ErrorKind::PermissionDenied.into(),
        );
        assert_eq!(other.to_string(), "cannot run /opt/darter-bridge");
    }
}
