//! Test programs: built by one `cargo` call, then run in groups.
//!
//! Cargo picks features for the packages that one call names: a call for each group would compile most
//! dependencies again for each. Doc tests are not programs; cargo runs them itself.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// One test program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Suite {
    /// The package's folder, where tests expect to run.
    folder: PathBuf,
    /// `lib`, `bin` or `test` and the target's name.
    target: String,
    program: PathBuf,
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    executable: Option<PathBuf>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Runs `cargo test … --no-run` and gives the programs, sorted.
///
/// # Errors
/// When something does not compile; cargo has said what on standard error.
pub(crate) fn build(cargo_test: &mut Command) -> Result<Vec<Suite>> {
    cargo_test.args(["--no-run", "--message-format=json-render-diagnostics"]);
    let mut child = cargo_test
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let mut suites = Vec::new();
    if let Some(pipe) = child.stdout.take() {
        for line in BufReader::new(pipe).lines() {
            suites.extend(parse(&line?));
        }
    }
    ensure!(child.wait()?.success(), "the tests do not compile");
    suites.sort_by(|one, other| (&one.folder, &one.target).cmp(&(&other.folder, &other.target)));
    Ok(suites)
}

impl Suite {
    /// Is it of the member in `folder`, relative to the root?
    pub(crate) fn is_in(&self, folder: &str) -> bool {
        self.folder.ends_with(folder)
    }

    /// The command that runs it as cargo would.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .current_dir(&self.folder)
            .env("CARGO_MANIFEST_DIR", &self.folder);
        command
    }

    /// What a person calls it.
    pub(crate) fn name(&self) -> String {
        let folder = self.folder.file_name().unwrap_or_default().to_string_lossy();
        format!("{folder} {}", self.target)
    }
}

fn parse(line: &str) -> Option<Suite> {
    let message: Message = serde_json::from_str(line).ok()?;
    let is_test = message.reason == "compiler-artifact" && message.profile?.test;
    let folder = message.manifest_path?.parent()?.to_owned();
    let target = message.target?;
    let target = format!("{} {}", target.kind.first()?, target.name);
    is_test.then_some(Suite {
        folder,
        target,
        program: message.executable?,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn test_programs_are_found_in_cargos_messages() {
        let line = r#"{"reason":"compiler-artifact","manifest_path":"/w/proxy/engine/Cargo.toml","target":{"kind":["test"],
            "name":"order"},"profile":{"test":true},"executable":"/w/target/debug/deps/order-1"}"#;
        let suite = parse(line).unwrap();
        assert_eq!(suite.program, Path::new("/w/target/debug/deps/order-1"));
        assert_eq!(suite.name(), "engine test order");
        assert!(suite.is_in("proxy/engine") && !suite.is_in("e2e"));
    }

    #[test]
    fn other_messages_are_not_tests() {
        for line in [
            "not json",
            r#"{"reason":"build-finished","success":true}"#,
            r#"{"reason":"compiler-artifact","manifest_path":"/w/Cargo.toml","target":{"kind":["lib"],"name":"x"},
               "profile":{"test":false},"executable":null}"#,
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
