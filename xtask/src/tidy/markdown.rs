//! Relative links lead somewhere, and the files that ARCHITECTURE.md names exist.

use std::path::Path;

/// Adds a problem for each relative link, and in ARCHITECTURE.md each named path, that is not in the tree.
pub(super) fn check(root: &Path, path: &str, text: &str, problems: &mut Vec<String>) {
    let folder = root.join(path).parent().map(Path::to_owned).unwrap_or_default();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let number = index + 1;
            for target in links(line).filter(|target| !folder.join(target).exists()) {
                problems.push(format!("{path}:{number}: the link to '{target}' leads nowhere"));
            }
            if path == "ARCHITECTURE.md" {
                for named in paths(line).filter(|named| !root.join(named).exists()) {
                    problems.push(format!("{path}:{number}: '{named}' is not in the tree"));
                }
            }
        }
    }
}

/// Targets of the line's inline links that are relative, without their fragment.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split([')', ' ', '#']).next()?;
        let outside = target.contains("://") || target.starts_with("mailto:");
        (!target.is_empty() && !outside).then_some(target)
    })
}

/// Words in backticks that look like a path of this tree: `a/b.rs`, `docs/`, `Cargo.toml` in a folder.
fn paths(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2).filter(|word| is_path(word))
}

fn is_path(word: &str) -> bool {
    const ENDINGS: [&str; 7] = [".rs", ".md", ".toml", ".proto", ".yaml", ".sh", "/"];
    let plain = word
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    plain
        && word.contains('/')
        && !word.starts_with('/')
        && ENDINGS.iter().any(|ending| word.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_relative_links_are_looked_at() {
        let line =
            "[a](docs/a.md#x) [b](https://x.test/) [c](#here) [d](b.md \"title\") [e](mailto:a@b.test)";
        assert_eq!(links(line).collect::<Vec<_>>(), ["docs/a.md", "b.md"]);
    }

    #[test]
    fn paths_are_words_with_a_slash_and_an_ending() {
        let line =
            "`proxy/src/lib.rs` and `docs/`, not `/v2/`, `foo.rs`, `a/{b,c}.rs`, `text/plain` or `x y/z.rs`";
        assert_eq!(paths(line).collect::<Vec<_>>(), ["proxy/src/lib.rs", "docs/"]);
    }

    #[test]
    fn what_is_missing_is_told_with_its_line() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut problems = Vec::new();
        let text =
            "[good](Cargo.toml)\n```\n[x](in-a-fence)\n```\n[bad](nowhere.md) `src/main.rs` `src/gone.rs`";
        check(root, "ARCHITECTURE.md", text, &mut problems);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("ARCHITECTURE.md:5:") && problems[0].contains("nowhere.md"));
        assert!(problems[1].contains("src/gone.rs"));
    }
}
