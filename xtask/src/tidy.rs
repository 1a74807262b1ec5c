//! Checks that need no compiler: sizes, module docs, links, named paths, dependency inheritance.
//!
//! It knows only lines of text. That is enough because rustfmt fixes where an item begins and ends.

mod manifests;
mod markdown;
mod rust;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Every problem in the tree at `root`, as `path:line: what is wrong, and the rule`.
pub(crate) fn problems(root: &Path) -> Result<Vec<String>> {
    let files = files(root)?;
    let mut problems = Vec::new();
    let mut sizes = rust::Sizes::default();
    for path in &files {
        // Deleted in the work tree, but still in the index: nothing to check.
        if !root.join(path).is_file() {
            continue;
        }
        if path.ends_with(".rs") {
            rust::check(path, &read(root, path)?, &mut sizes, &mut problems);
        } else if path.ends_with(".md") {
            markdown::check(root, path, &read(root, path)?, &mut problems);
        } else if path.ends_with("/Cargo.toml") && !path.starts_with("fuzz/") {
            manifests::check(path, &read(root, path)?, &mut problems);
        }
    }
    sizes.unverified(&mut problems);
    println!("{}", sizes.summary());
    Ok(problems)
}

/// Files that git knows or would add.
fn files(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot start git")?;
    ensure!(
        output.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?
        .lines()
        .map(str::to_owned)
        .collect())
}

fn read(root: &Path, path: &str) -> Result<String> {
    std::fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"))
}
