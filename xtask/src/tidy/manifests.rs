//! Members take every dependency's version from the workspace, so that one is compiled once.

/// Adds a problem for each dependency that a member's manifest does not inherit.
pub(super) fn check(path: &str, text: &str, problems: &mut Vec<String>) {
    let mut in_dependencies = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(section) = line.strip_prefix('[') {
            in_dependencies = section.trim_end_matches(']').ends_with("dependencies");
        } else if in_dependencies && line.contains('=') && !line.starts_with('#') && !inherits(line) {
            problems.push(format!(
                "{path}:{}: '{line}' does not say `workspace = true`",
                index + 1
            ));
        }
    }
}

fn inherits(line: &str) -> bool {
    line.contains("workspace = true")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let mut problems = Vec::new();
        check("x/Cargo.toml", text, &mut problems);
        problems
    }

    #[test]
    fn inherited_dependencies_are_good() {
        let text = "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\nb = { workspace = true, features = [] }";
        assert!(found(text).is_empty(), "{:?}", found(text));
    }

    #[test]
    fn own_versions_are_found() {
        assert_eq!(found("[dev-dependencies]\n# c\na = \"1\"").len(), 1);
        assert_eq!(
            found("[target.'cfg(unix)'.dependencies]\na = { version = \"1\" }").len(),
            1
        );
    }
}
