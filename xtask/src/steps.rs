//! What each task consists of: the commands, in the order in which they are cheapest to fail.
//!
//! No step repeats another's compilation: clippy and the docs share the dependencies' metadata, all tests
//! share the dev profile, and only the binary under the end-to-end tests is built optimised.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::E2eOptions;
use crate::apt;
use crate::openssl;
use crate::repeated;
use crate::report::Report;
use crate::suites::Suite;
use crate::tidy;
use crate::tools;

/// Folder of the simulation, whose tests are a step of their own: long, and with an argument.
const SIM: &str = "sim";
/// Scenarios of the simulation that go by chance have this in their names.
const SIM_BY_CHANCE: &str = "nemesis";
/// Profile for many seeds: optimised, with the assertions that find what is wrong.
const SIM_PROFILE: &str = "sim";
/// Folder of the end-to-end tests.
const E2E: &str = "e2e";

/// Everything that CI runs.
pub(crate) fn test(options: &E2eOptions) -> Result<bool> {
    openssl::install();
    apt::install_postgres();
    tools::install_for_operators(&folder("tools"));
    apt::install_browser();
    let mut report = Report::default();
    fmt(&mut report)?;
    report.check("tidy", || tidy::problems(&root()))?;
    clippy(&mut report)?;
    report.command(
        "docs",
        cargo("doc")
            .args(["--workspace", "--no-deps"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    let suites = report.build("build of all tests", cargo("test").arg("--workspace"));
    let unit = suites
        .iter()
        .filter(|suite| !suite.is_in(SIM) && !suite.is_in(E2E));
    report.suites("unit and property tests", unit, |_| {})?;
    report.command(
        "doc tests",
        cargo("test").args(["--workspace", "--doc", "--no-fail-fast"]),
    )?;
    simulation(&mut report, &suites, &[], None)?;
    end_to_end(&mut report, &suites, None, options)?;
    Ok(report.finish())
}

/// The subset for before a commit.
pub(crate) fn check() -> Result<bool> {
    let mut report = Report::default();
    fmt(&mut report)?;
    report.check("tidy", || tidy::problems(&root()))?;
    clippy(&mut report)?;
    let mut unit = cargo("test");
    report.command(
        "unit tests",
        unit.args(["--workspace", "--lib", "--bins", "--no-fail-fast"]),
    )?;
    Ok(report.finish())
}

/// The end-to-end tests alone.
pub(crate) fn e2e(filter: Option<&str>, options: &E2eOptions) -> Result<bool> {
    let mut report = Report::default();
    let suites = report.build(
        "build of the tests",
        cargo("test").args(["--package", "darter-e2e"]),
    );
    end_to_end(&mut report, &suites, filter, options)?;
    report.require_tests();
    Ok(report.finish())
}

/// The simulation alone, one seed of it, or many new ones of what goes by chance.
pub(crate) fn sim(seed: Option<u64>, seeds: Option<u64>, filter: Option<&str>) -> Result<bool> {
    let mut report = Report::default();
    let mut build = cargo("test");
    build.args(["--package", "darter-sim"]);
    if seeds.is_some() {
        // Minutes of compiling are nothing against 10^5 seeds.
        build.args(["--profile", SIM_PROFILE]);
    }
    let suites = report.build("build of the tests", &mut build);
    let variables = [("SIM_SEED", seed), ("SIM_SEEDS", seeds)];
    simulation(
        &mut report,
        &suites,
        &variables,
        filter.or(seeds.map(|_| SIM_BY_CHANCE)),
    )?;
    report.require_tests();
    Ok(report.finish())
}

/// One benchmark; its output is its own.
pub(crate) fn bench(arguments: &[String]) -> Result<bool> {
    // The binary under measurement, then the program that measures it.
    let mut build = cargo("build");
    build.args(["--release", "--package", "darter"]);
    if arguments.iter().any(|name| name == "lazy") {
        build.args(["--package", "darter-nydus-bridge"]);
        let tools = folder("tools");
        let there = tools::are_installed(&tools) || tools::install(&tools).status()?.success();
        anyhow::ensure!(there, "the real Nydus programs cannot be installed");
    }
    anyhow::ensure!(build.status()?.success(), "the release build of darter failed");
    let mut run = cargo("run");
    run.args([
        "--release",
        "--quiet",
        "--package",
        "darter-e2e",
        "--bin",
        "darter-bench",
        "--",
    ]);
    run.args(arguments)
        .env("DARTER_BIN", folder("release").join("darter"))
        .env("DARTER_NYDUS_TOOLS", folder("tools").join("bin"));
    Ok(run.status().context("cannot start the benchmark")?.success())
}

/// The table of faults; its output is its own. The binary is the one that the end-to-end tests have. In full it comes behind
/// the tests that try a bar in one process.
pub(crate) fn faults(arguments: &[String]) -> Result<bool> {
    let Some(arguments) = arguments
        .iter()
        .any(|word| word == "--full")
        .then(|| repeated::split(arguments))
    else {
        return table_of_faults(arguments);
    };
    let mut good = true;
    for test in &arguments.tests {
        let mut run = cargo("test");
        // Standard output is for the table.
        run.args(test.arguments())
            .env(repeated::VARIABLE, "full")
            .stdout(std::io::stderr());
        good &= run.status().context("cannot start cargo")?.success();
    }
    match &arguments.rest {
        Some(rest) => Ok(table_of_faults(rest)? && good),
        None => Ok(good),
    }
}

fn table_of_faults(arguments: &[String]) -> Result<bool> {
    let build = cargo("build")
        .args(["--profile", "e2e", "--package", "darter", "--bin", "darter"])
        .status()?;
    anyhow::ensure!(build.success(), "the build of darter failed");
    let mut run = cargo("run");
    run.args([
        "--quiet",
        "--package",
        "darter-e2e",
        "--bin",
        "darter-faults",
        "--",
    ]);
    run.args(arguments)
        .env("DARTER_BIN", folder("e2e").join("darter"))
        .env("RUST_LIB_BACKTRACE", "0");
    Ok(run.status().context("cannot start the faults")?.success())
}

/// `darter up` from a debug build, until Ctrl-C.
pub(crate) fn dev(arguments: &[String]) -> Result<bool> {
    let mut run = cargo("run");
    run.args(["--package", "darter", "--bin", "darter", "--", "up"])
        .args(arguments);
    Ok(run.status().context("cannot start darter")?.success())
}

/// The fuzz targets, on the nightly compiler.
pub(crate) fn fuzz(target: Option<&str>, seconds: u32) -> Result<bool> {
    crate::fuzz::run(&root(), target, seconds)
}

/// The checks that need no compiler.
pub(crate) fn tidy() -> Result<bool> {
    let mut report = Report::default();
    report.check("tidy", || tidy::problems(&root()))?;
    Ok(report.finish())
}

fn fmt(report: &mut Report) -> Result<bool> {
    report.command(
        "fmt",
        Command::new("cargo")
            .args(["fmt", "--all", "--check"])
            .current_dir(root()),
    )
}

fn clippy(report: &mut Report) -> Result<bool> {
    let mut clippy = cargo("clippy");
    clippy.args(["--workspace", "--all-targets", "--", "--deny", "warnings"]);
    report.command("clippy", &mut clippy)
}

fn simulation(
    report: &mut Report,
    suites: &[Suite],
    variables: &[(&str, Option<u64>)],
    filter: Option<&str>,
) -> Result<bool> {
    let simulation = suites.iter().filter(|suite| suite.is_in(SIM));
    report.suites("simulation", simulation, |command| {
        command.args(filter);
        for (name, value) in variables {
            if let Some(value) = value {
                // Each seed is shown as it begins.
                command.env(name, value.to_string()).arg("--nocapture");
            }
        }
    })
}

/// Builds the binary, prepares packages and images where one can watch it, then runs the tests one by one:
/// they share two cores, and what they measure are links.
fn end_to_end(
    report: &mut Report,
    suites: &[Suite],
    filter: Option<&str>,
    options: &E2eOptions,
) -> Result<bool> {
    let mut build = cargo("build");
    build.args([
        "--profile",
        &options.profile,
        "--package",
        "darter",
        "--bin",
        "darter",
        // It stands beside the other one, which runs it.
        "--package",
        "darter-nydus-bridge",
        "--bin",
        "darter-bridge",
    ]);
    let mut good = report.command("e2e: the binaries", &mut build)?;

    let mut prepare = Command::new(folder("dev").join("e2e-prepare"));
    good &= report.command("e2e: packages and images", prepare.current_dir(root()))?;
    if !tools::are_installed(&folder("tools")) {
        let install = &mut tools::install(&folder("tools"));
        good &= report.command("e2e: the real Nydus programs", install)?;
    }

    let binary = folder(&options.profile).join("darter");
    let tests = suites.iter().filter(|suite| suite.is_in(E2E));
    good &= report.suites("e2e: tests", tests, |command| {
        // A test's error says what happened; where in the harness it was made is noise.
        command.env("DARTER_BIN", &binary).env("RUST_LIB_BACKTRACE", "0");
        command.env("DARTER_NYDUS_TOOLS", folder("tools").join("bin"));
        command.arg("--test-threads=1").args(filter);
        if options.keep {
            command.env("DARTER_E2E_KEEP", "1");
        }
    })?;
    Ok(good)
}

/// `cargo COMMAND` at the workspace's root. In CI the lock file must not move, and nothing is built twice:
/// what would make a second build faster is gigabytes of disk for nobody.
fn cargo(command: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.arg(command).current_dir(root());
    if std::env::var_os("CI").is_some() {
        cargo.arg("--locked").env("CARGO_INCREMENTAL", "0");
    }
    openssl::prefer(&mut cargo);
    cargo
}

/// Where a build with `profile` puts programs.
fn folder(profile: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join(if profile == "dev" { "debug" } else { profile })
}

/// The workspace's root: the folder above this package's.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
