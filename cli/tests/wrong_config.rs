//! Files in `testdata/` and what is said about them: everything at once, each line with its place, and status 64.
//!
//! `NAME.yaml` is for the role that its name begins with; `NAME.expected` is what standard error says, without the path
//! of the file. `DARTER_BLESS=1` writes the expected texts anew: read the diff.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

use std::path::Path;
use std::process::Command;

fn complaint(role: &str, file: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_darter"))
        .args([role, "check-config", "--config"])
        .arg(file)
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64), "{}", file.display());
    assert!(output.stdout.is_empty(), "errors go to standard error");
    String::from_utf8(output.stderr)
        .unwrap()
        .replace(&file.display().to_string(), "FILE")
}

#[test]
fn every_wrong_file_is_told_all_that_is_wrong() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        let role = name.split('-').next().unwrap();
        let (said, expected) = (complaint(role, &path), path.with_extension("expected"));
        if std::env::var_os("DARTER_BLESS").is_some() {
            std::fs::write(&expected, &said).unwrap();
        }
        assert_eq!(said, std::fs::read_to_string(&expected).unwrap(), "{name}");
        seen += 1;
    }
    assert!(seen >= 8, "only {seen} files were tried");
}
