//! What the tests of several checks need: a node's files, and what was said about them.

use super::finding::{Finding, State};

/// A file system with these files.
pub(super) fn node(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    root
}

/// A finding of this state has these words, and says what to do.
pub(super) fn told(findings: &[Finding], state: State, words: &str) {
    let found = findings.iter().any(|one| {
        one.state == state && one.seen.contains(words) && (state == State::Ok || one.advice.is_some())
    });
    assert!(found, "{state:?} {words}: {findings:#?}");
}
