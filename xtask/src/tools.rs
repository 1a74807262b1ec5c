//! The real Nydus programs, which the end-to-end tests compare with: installed once, beside the build.

use std::path::Path;
use std::process::Command;

/// The newest release of the registry that has programs.
const VERSION: &str = "2.2.0";
const PROGRAMS: [&str; 2] = ["nydus-image", "nydusd"];

/// Whether they are below `folder`.
pub(crate) fn are_installed(folder: &Path) -> bool {
    let programs = folder.join("bin");
    PROGRAMS.iter().all(|program| programs.join(program).is_file())
}

/// The command that installs them there: some minutes.
pub(crate) fn install(folder: &Path) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args(["install", "nydus-rs", "--version", VERSION, "--locked", "--root"]);
    cargo.arg(folder).env("CARGO_TARGET_DIR", folder.join("build"));
    cargo
}
