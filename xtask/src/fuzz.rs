//! `cargo xtask fuzz`: cargo-fuzz on the targets in `fuzz/`, one after the other.
//!
//! The unit tests run the same bodies for a moment (`testkit/src/fuzz.rs`); this is for hours. Inputs that are found stay in
//! `fuzz/corpus`, those that break something in `fuzz/artifacts`; what was repaired goes to `fuzz/seeds`.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Most memory of one target, in MiB: whoever takes more is broken.
const MEMORY_MIB_MAX: u32 = 512;
/// Longest input, in bytes, as in the unit tests.
const INPUT_BYTES_MAX: u32 = 16 * 1024;

/// Runs `target`, or all, for so many seconds each.
///
/// # Errors
/// When a tool is missing (the error says how to get it), or the target is none.
pub(crate) fn run(root: &Path, target: Option<&str>, seconds: u32) -> Result<bool> {
    let all = targets(root)?;
    let chosen: Vec<&String> = all
        .iter()
        .filter(|name| target.is_none_or(|wanted| wanted == *name))
        .collect();
    if chosen.is_empty() {
        bail!("there is no such target; there are {}", all.join(", "));
    }
    require(
        Command::new("cargo").args(["+nightly", "--version"]),
        "rustup toolchain install nightly --profile minimal",
    )?;
    require(
        Command::new("cargo").args(["fuzz", "--version"]),
        "cargo install --locked cargo-fuzz",
    )?;
    // What is fuzzed is what is shipped: cargo adds only what the fuzzer itself needs.
    std::fs::copy(root.join("Cargo.lock"), root.join("fuzz/Cargo.lock"))
        .context("cannot copy the lock file")?;
    let mut failed = Vec::new();
    for name in chosen {
        println!("=== {name}: {seconds} s");
        if !one(root, name, seconds)? {
            failed.push(name.as_str());
        }
    }
    if !failed.is_empty() {
        println!(
            "failed: {}; the inputs are in fuzz/artifacts, put them into fuzz/seeds with the repair",
            failed.join(", ")
        );
    }
    Ok(failed.is_empty())
}

fn one(root: &Path, name: &str, seconds: u32) -> Result<bool> {
    let corpus = root.join("fuzz/corpus").join(name);
    std::fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    let mut fuzz = Command::new("cargo");
    fuzz.args(["+nightly", "fuzz", "run", name])
        .arg(&corpus)
        .arg(root.join("fuzz/seeds").join(name))
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .arg("-timeout=10")
        .arg("-print_final_stats=1")
        .current_dir(root)
        // Built with other flags: in a folder of its own whatever the caller's is.
        .env("CARGO_TARGET_DIR", root.join("fuzz/target"));
    Ok(fuzz.status().context("cannot start cargo fuzz")?.success())
}

fn require(command: &mut Command, how: &str) -> Result<()> {
    let found = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    ensure!(
        found.is_ok_and(|status| status.success()),
        "fuzzing needs the nightly compiler and cargo-fuzz: {how}"
    );
    Ok(())
}

/// The names of all targets.
fn targets(root: &Path) -> Result<Vec<String>> {
    names(&root.join("fuzz/fuzz_targets"))
}

/// Names in a folder, without their endings, sorted.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_declared_has_seeds_and_runs_in_the_unit_tests() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let targets = targets(&root).unwrap();
        assert_eq!(targets, names(&root.join("fuzz/seeds")).unwrap());
        let manifest = std::fs::read_to_string(root.join("fuzz/Cargo.toml")).unwrap();
        for target in &targets {
            assert!(
                manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")),
                "{target} is not in fuzz/Cargo.toml"
            );
            let call = format!("fuzz::check(\"{target}\"");
            let here = format!("check(\"{target}\"");
            let called = Command::new("git")
                .args(["grep", "-q", "-F", "-e", &call, "-e", &here, "--", "*.rs"])
                .current_dir(&root)
                .status()
                .unwrap();
            assert!(called.success(), "no unit test runs {target}");
        }
    }

    #[test]
    fn a_target_that_is_none_is_told_with_those_that_are() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let error = run(&root, Some("nonsense"), 1).unwrap_err().to_string();
        assert!(error.contains("range, scheduler_message"), "{error}");
    }
}
