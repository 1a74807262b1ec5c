//! `cargo xtask fuzz`: cargo-fuzz on the targets in `fuzz/`, one after the other.
//!
//! The unit tests run the same bodies for a moment (`testkit/src/fuzz.rs`); this is for hours. Inputs that are found stay in
//! `fuzz/corpus`, those that break something in `fuzz/artifacts`; what was repaired goes to `fuzz/seeds`.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Most memory of one target, in MiB: whoever takes more is broken.
const MEMORY_MIB_MAX: u32 = 512;
/// Longest input, in bytes, as in the unit tests.
const INPUT_BYTES_MAX: u32 = 16 * 1024;

/// What one run of a target came to.
#[derive(Debug, Default, PartialEq)]
struct Run {
    target: String,
    /// Inputs that were tried; `None` if the fuzzer did not say.
    executions: Option<u64>,
    /// How long it took; `None` if it broke off.
    seconds: Option<u64>,
    /// Inputs that broke it and were not known before.
    crashes: usize,
    /// It ran to its end.
    ended: bool,
}

/// Runs `target`, or all, for so many seconds each, and prints a table of what was tried.
///
/// # Errors
/// When a tool is missing (the error says how to get it), the targets cannot be built, or `target` is none.
pub(crate) fn run(root: &Path, target: Option<&str>, seconds: u32) -> Result<bool> {
    let all = targets(root)?;
    let chosen: Vec<&String> = all
        .iter()
        .filter(|name| target.is_none_or(|wanted| wanted == *name))
        .collect();
    if chosen.is_empty() {
        bail!("there is no such target; there are {}", all.join(", "));
    }
    require_tools()?;
    // What is fuzzed is what is shipped: cargo adds only what the fuzzer itself needs.
    std::fs::copy(root.join("Cargo.lock"), root.join("fuzz/Cargo.lock"))
        .context("cannot copy the lock file")?;
    let built = cargo_fuzz(root, "build").args(target).status();
    ensure!(
        built.context("cannot start cargo fuzz")?.success(),
        "the targets cannot be built"
    );
    let mut runs = Vec::new();
    for name in chosen {
        println!("=== {name}: {seconds} s");
        runs.push(one(root, name, seconds)?);
    }
    print!("\n{}", table(&runs));
    let failed: Vec<&str> = runs
        .iter()
        .filter(|run| !run.ended || run.crashes > 0)
        .map(|run| run.target.as_str())
        .collect();
    if !failed.is_empty() {
        println!(
            "failed: {}; the inputs are in fuzz/artifacts, put them into fuzz/seeds with the repair",
            failed.join(", ")
        );
    }
    Ok(failed.is_empty())
}

/// The sanitizer is not for the stable compiler.
fn require_tools() -> Result<()> {
    require(
        Command::new("cargo").args(["+nightly", "--version"]),
        "rustup toolchain install nightly --profile minimal",
    )?;
    require(
        Command::new("cargo").args(["+nightly", "fuzz", "--version"]),
        "cargo install --locked cargo-fuzz",
    )?;
    require(
        Command::new("c++").arg("--version"),
        "a C++ compiler named c++, for the fuzzer itself: apt-get install g++",
    )
}

fn cargo_fuzz(root: &Path, command: &str) -> Command {
    let mut fuzz = Command::new("cargo");
    fuzz.args(["+nightly", "fuzz", command])
        .current_dir(root)
        // Built with other flags: in a folder of its own whatever the caller's is.
        .env("CARGO_TARGET_DIR", root.join("fuzz/target"));
    fuzz
}

fn one(root: &Path, name: &str, seconds: u32) -> Result<Run> {
    let corpus = root.join("fuzz/corpus").join(name);
    std::fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    let artifacts = root.join("fuzz/artifacts").join(name);
    let known = count(&artifacts);
    let mut fuzz = cargo_fuzz(root, "run")
        .arg(name)
        .arg(&corpus)
        .arg(root.join("fuzz/seeds").join(name))
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .arg("-timeout=10")
        .arg("-print_final_stats=1")
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start cargo fuzz")?;
    let (mut executions, mut took) = (None, None);
    if let Some(said) = fuzz.stderr.take() {
        for line in BufReader::new(said).lines() {
            let line = line.context("cannot read what the fuzzer says")?;
            println!("{line}");
            executions = executions_of(&line).or(executions);
            took = seconds_of(&line).or(took);
        }
    }
    let ended = fuzz.wait().context("cannot wait for cargo fuzz")?.success();
    Ok(Run {
        target: name.to_owned(),
        executions,
        seconds: took,
        crashes: count(&artifacts).saturating_sub(known),
        ended,
    })
}

/// The number of inputs that were tried, where the fuzzer's line says it.
fn executions_of(line: &str) -> Option<u64> {
    let (_, number) = line.split_once("stat::number_of_executed_units:")?;
    number.trim().parse().ok()
}

/// The seconds that it took, where the fuzzer's line says it.
fn seconds_of(line: &str) -> Option<u64> {
    let (_, rest) = line.strip_prefix("Done ")?.split_once(" runs in ")?;
    rest.split_once(' ')?.0.parse().ok()
}

/// How many files a folder has; none if it is not there.
fn count(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

/// What was tried, as a table for docs/faults.md.
fn table(runs: &[Run]) -> String {
    let mut table = "| Target | Executions | Seconds | New crashes |\n|---|---|---|---|\n".to_owned();
    for run in runs {
        let executions = run.executions.map_or("?".to_owned(), |number| number.to_string());
        let crashes = match (run.crashes, run.ended) {
            (0, false) => "broke off".to_owned(),
            (crashes, _) => crashes.to_string(),
        };
        let seconds = run.seconds.map_or("?".to_owned(), |number| number.to_string());
        let target = &run.target;
        table.push_str(&format!("| {target} | {executions} | {seconds} | {crashes} |\n"));
    }
    table
}

fn require(command: &mut Command, how: &str) -> Result<()> {
    let found = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    ensure!(
        found.is_ok_and(|status| status.success()),
        "fuzzing needs the nightly compiler, cargo-fuzz and a C++ compiler; missing: {how}"
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
    fn what_was_tried_is_told_at_the_end() {
        let line = "stat::number_of_executed_units: 123456";
        assert_eq!(executions_of(line), Some(123_456));
        assert_eq!(
            executions_of("#2\tINITED cov: 5 ft: 6 corp: 1/1b exec/s: 0"),
            None
        );
        let run = |target: &str, executions, crashes, ended| Run {
            target: target.to_owned(),
            executions,
            seconds: seconds_of("Done 123456 runs in 61 second(s)").filter(|_| ended),
            crashes,
            ended,
        };
        let runs = [
            run("range", executions_of(line), 0, true),
            run("path", None, 1, false),
            run("token", None, 0, false),
        ];
        assert_eq!(
            table(&runs).lines().skip(2).collect::<Vec<_>>(),
            [
                "| range | 123456 | 61 | 0 |",
                "| path | ? | ? | 1 |",
                "| token | ? | ? | broke off |",
            ]
        );
    }

    #[test]
    fn a_target_that_is_none_is_told_with_those_that_are() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let error = run(&root, Some("nonsense"), 1).unwrap_err().to_string();
        assert!(error.contains("range, scheduler_message"), "{error}");
    }
}
