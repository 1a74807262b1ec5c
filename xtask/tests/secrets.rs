//! Secrets are compared by their keyed hashes and never as they are: how long that takes would say how much of one was right.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// Whether a line compares what `expose()` gives.
fn compares(line: &str) -> bool {
    let Some((before, after)) = line.split_once(".expose()") else {
        return false;
    };
    let compared = |part: &str| {
        ["==", "!=", ".eq(", ".ne(", ".cmp("]
            .iter()
            .any(|sign| part.contains(sign))
    };
    compared(before) || compared(after)
}

#[test]
fn no_secret_is_compared_as_it_is() {
    assert!(compares("if secret.expose() == shown {") && compares("shown == secret.expose()"));
    assert!(!compares("let bytes = secret.expose().as_bytes();"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = Vec::new();
    for role in ["service", "proxy", "scheduler", "cli"] {
        sources(&root.join(role), &mut found);
    }
    let mut exposed = 0;
    for path in found {
        let text = fs::read_to_string(&path).unwrap();
        // Tests may compare: they know the secret.
        let code = text.split("#[cfg(test)]").next().unwrap();
        for (line, number) in code.lines().zip(1..) {
            exposed += usize::from(line.contains(".expose()"));
            assert!(!compares(line), "{}:{number}: {line}", path.display());
        }
    }
    assert!(exposed > 0, "nothing was looked at");
}
