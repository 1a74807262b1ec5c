//! Runs the steps of a task one after the other, times them, and adds up what the tests say.
//!
//! A step that fails does not stop the ones behind it: one run shows everything that is wrong. What failed is
//! named once more at the end, for whoever has only the end of the output. The last line is always `N passed, N failed`,
//! where a failed step without tests of its own counts as one failure.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::suites::{self, Suite};

/// The outcome of the steps so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    passed: u64,
    failed: u64,
    /// Names of failed tests, or of what failed without saying a test's name.
    failures: Vec<String>,
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    name: String,
    took: Duration,
    good: bool,
}

/// What the summary lines of libtest in one step's output add up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    /// Names of the failed tests.
    names: Vec<String>,
    /// What stands below the last `failures:`. There are two: output of the failed tests, then their names.
    listed: Option<Vec<String>>,
}

impl Report {
    /// Runs `command` with its output shown as it comes, and counts the tests that it reports.
    pub(crate) fn command(&mut self, name: &str, command: &mut Command) -> Result<bool> {
        header(name, &render(command));
        let start = now();
        let good = self.run(name, command)?;
        self.end(name, start, good);
        Ok(good)
    }

    /// Builds test programs; none when they do not compile, which counts as one failure.
    pub(crate) fn build(&mut self, name: &str, cargo_test: &mut Command) -> Vec<Suite> {
        header(name, &render(cargo_test));
        let start = now();
        let built = suites::build(cargo_test);
        let good = built.is_ok();
        self.judge(name, good);
        if let Err(error) = &built {
            println!("{error:#}");
        }
        self.end(name, start, good);
        built.unwrap_or_default()
    }

    /// Runs test programs one after the other as one step. `prepare` adds arguments and environment.
    pub(crate) fn suites<'a>(
        &mut self,
        name: &str,
        suites: impl Iterator<Item = &'a Suite>,
        prepare: impl Fn(&mut Command),
    ) -> Result<bool> {
        header(name, "");
        let start = now();
        let mut good = true;
        for suite in suites {
            let mut command = suite.command();
            prepare(&mut command);
            println!("\n--- {}\n$ {}", suite.name(), render(&command));
            good &= self.run(&suite.name(), &mut command)?;
        }
        self.end(name, start, good);
        Ok(good)
    }

    /// Runs and counts.
    fn run(&mut self, name: &str, command: &mut Command) -> Result<bool> {
        let (tally, good) = stream(command).with_context(|| format!("'{name}' could not run"))?;
        self.passed += tally.passed;
        self.failed += tally.failed;
        self.failures
            .extend(tally.names.iter().map(|test| format!("{name}: {test}")));
        self.judge(name, good || tally.failed > 0);
        Ok(good)
    }

    /// Runs a check that lives in this program. It returns the problems that it found, which are printed.
    pub(crate) fn check(&mut self, name: &str, check: impl FnOnce() -> Result<Vec<String>>) -> Result<bool> {
        header(name, "");
        let start = now();
        let problems = check().with_context(|| format!("step '{name}' could not run"))?;
        for problem in &problems {
            println!("{problem}");
        }
        let good = problems.is_empty();
        self.judge(name, good);
        self.end(name, start, good);
        Ok(good)
    }

    /// Counts what failed without saying how many tests did.
    fn judge(&mut self, name: &str, good: bool) {
        if !good {
            self.failed += 1;
            self.failures.push(name.to_owned());
        }
    }

    /// A filter that matches no test is a mistake, not a success.
    pub(crate) fn require_tests(&mut self) {
        if self.passed + self.failed == 0 {
            self.judge("no test has that in its name", false);
        }
    }

    fn end(&mut self, name: &str, start: Instant, good: bool) {
        let took = start.elapsed();
        let room = free_disk().map_or_else(String::new, |free| format!(", {free} of disk free"));
        println!(
            "=== {name}: {} in {:.1} s{room}",
            verdict(good),
            took.as_secs_f64()
        );
        self.steps.push(Step {
            name: name.to_owned(),
            took,
            good,
        });
    }

    /// Prints the table of steps and the last line. True when everything was good.
    pub(crate) fn finish(self) -> bool {
        let total: Duration = self.steps.iter().map(|step| step.took).sum();
        println!("\n=== summary, {:.1} s in all", total.as_secs_f64());
        for step in &self.steps {
            println!(
                "{:<7} {:>7.1} s  {}",
                verdict(step.good),
                step.took.as_secs_f64(),
                step.name
            );
        }
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        self.failed == 0
    }
}

/// What `df` says is free here: too little of it makes tests fail in ways that do not tell.
fn free_disk() -> Option<String> {
    let printed = Command::new("df")
        .args(["--block-size=G", "--output=avail", "."])
        .output()
        .ok()?;
    let printed = String::from_utf8(printed.stdout).ok()?;
    Some(printed.lines().nth(1)?.trim().to_owned())
}

fn verdict(good: bool) -> &'static str {
    if good { "ok" } else { "FAILED" }
}

fn header(name: &str, command: &str) {
    println!("\n=== {name}");
    if !command.is_empty() {
        println!("$ {command}");
    }
}

/// The command as one could type it, with the variables that were added to its environment.
fn render(command: &Command) -> String {
    let mut words = Vec::new();
    for (key, value) in command.get_envs() {
        let value = value.unwrap_or_default().to_string_lossy();
        words.push(format!("{}={}", key.to_string_lossy(), quote(&value)));
    }
    words.push(quote(&command.get_program().to_string_lossy()));
    words.extend(
        command
            .get_args()
            .map(|argument| quote(&argument.to_string_lossy())),
    );
    words.join(" ")
}

fn quote(word: &str) -> String {
    if word.contains(char::is_whitespace) {
        format!("'{word}'")
    } else {
        word.to_owned()
    }
}

fn stream(command: &mut Command) -> Result<(Tally, bool)> {
    std::io::stdout().flush()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    let mut tally = Tally::default();
    if let Some(pipe) = child.stdout.take() {
        for line in BufReader::new(pipe).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            println!("{line}");
            tally.add(&line);
        }
    }
    Ok((tally, child.wait()?.success()))
}

impl Tally {
    /// Reads `test result: ok. 3 passed; 0 failed; …` and the names below the last `failures:` before it; other
    /// lines change nothing.
    fn add(&mut self, line: &str) {
        let Some(rest) = line.trim_start().strip_prefix("test result: ") else {
            if line == "failures:" {
                self.listed = Some(Vec::new());
            } else if let (Some(listed), Some(name)) = (&mut self.listed, line.strip_prefix("    ")) {
                listed.push(name.to_owned());
            }
            return;
        };
        self.names.extend(self.listed.take().into_iter().flatten());
        let Some((_, counts)) = rest.split_once(". ") else {
            return;
        };
        for part in counts.split("; ") {
            match part.split_once(' ') {
                Some((count, "passed")) => self.passed += count.parse().unwrap_or(0),
                Some((count, "failed")) => self.failed += count.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this program measures how long commands take on the real clock"
)]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tally_adds_up_libtest_summaries() {
        let mut tally = Tally::default();
        tally.add("running 3 tests");
        tally.add(
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        tally.add(
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 5 filtered out; finished in 1s",
        );
        assert_eq!((tally.passed, tally.failed), (4, 2));
        assert!(tally.names.is_empty());
    }

    #[test]
    fn failed_tests_are_named() {
        let script =
            "printf 'failures:\n\n---- one stdout ----\n    indented\n\n\nfailures:\n    one\n    a::two\n\n'
            echo 'test result: FAILED. 1 passed; 2 failed; 0 ignored'; exit 101";
        let mut report = Report::default();
        report
            .command("tests", Command::new("sh").args(["-c", script]))
            .unwrap();
        report.command("false", &mut Command::new("false")).unwrap();
        assert_eq!(report.failures, ["tests: one", "tests: a::two", "false"]);
        assert_eq!(report.failed, 3);
    }

    #[test]
    fn a_failed_step_without_tests_counts_once() {
        let mut report = Report::default();
        assert!(!report.command("false", &mut Command::new("false")).unwrap());
        assert!(report.command("true", &mut Command::new("true")).unwrap());
        assert_eq!((report.passed, report.failed), (0, 1));
        assert!(!report.finish());
    }

    #[test]
    fn a_step_that_fails_in_its_tests_counts_those() {
        let mut report = Report::default();
        let script = "echo 'test result: FAILED. 1 passed; 2 failed; 0 ignored'; exit 101";
        assert!(
            !report
                .command("tests", Command::new("sh").args(["-c", script]))
                .unwrap()
        );
        assert_eq!((report.passed, report.failed), (1, 2));
    }

    #[test]
    fn a_filter_that_matches_nothing_fails() {
        let mut report = Report::default();
        report
            .command(
                "nothing",
                Command::new("echo").arg("test result: ok. 0 passed; 0 failed; 0 ignored"),
            )
            .unwrap();
        report.require_tests();
        assert!(!report.finish());
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let error = Report::default()
            .command("x", &mut Command::new("/nonexistent/program"))
            .unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent/program"), "{error:#}");
    }

    #[test]
    fn commands_are_shown_as_typed() {
        let mut command = Command::new("cargo");
        command
            .env("RUSTDOCFLAGS", "-D warnings")
            .args(["doc", "--no-deps"]);
        assert_eq!(render(&command), "RUSTDOCFLAGS='-D warnings' cargo doc --no-deps");
    }
}
