//! What is wrong with a configuration: all of it, each with its place.

use std::fmt;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where the value came from: a file, an environment variable, `--set`; empty when it is a default.
    pub source: String,
    /// The key's path from the top, such as `upload.rateLimit`; empty for the whole.
    pub path: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.source, &self.path] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.message)
    }
}

/// Collects what [`Validate::validate`] finds.
#[derive(Debug, Default)]
pub struct Problems {
    within: Vec<String>,
    found: Vec<(String, String)>,
}

impl Problems {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one. `key` is relative to the section that is being looked at ([`Problems::within`]) and may have
    /// several parts (`upload.rateLimit`); the message says what is wrong and what would be right.
    pub fn add(&mut self, key: &str, message: impl Into<String>) {
        let mut path = self.within.clone();
        if !key.is_empty() {
            path.push(key.to_owned());
        }
        self.found.push((path.join("."), message.into()));
    }

    /// Looks at a section: what `look` adds is put below `section`.
    pub fn within(&mut self, section: &str, look: impl FnOnce(&mut Self)) {
        self.within.push(section.to_owned());
        look(self);
        self.within.pop();
    }

    /// Path and message of each, in the order in which they were added.
    pub fn found(&self) -> &[(String, String)] {
        &self.found
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }
}

/// What a configuration knows about itself beyond its types.
pub trait Validate {
    /// Paths of maps that take any key, such as `registries`. Everywhere else a key that the defaults do not have
    /// is reported as unknown, so a field must not be skipped when it is serialised.
    fn free_form() -> &'static [&'static str] {
        &[]
    }

    /// Adds what is wrong where values are looked at together.
    fn validate(&self, problems: &mut Problems);
}

/// A configuration that is not used, and everything that is wrong with it: one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.problems))]
pub struct ConfigError {
    /// Never empty.
    pub problems: Vec<Problem>,
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_nest_and_end() {
        let mut problems = Problems::new();
        problems.within("upload", |problems| {
            problems.add("rateLimit", "too low");
            problems.within("tls", |problems| problems.add("", "incomplete"));
        });
        problems.add("mode", "unclear");
        let paths: Vec<&str> = problems.found().iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["upload.rateLimit", "upload.tls", "mode"]);
    }

    #[test]
    fn one_line_a_problem() {
        let problem = |source: &str, path: &str| Problem {
            source: source.into(),
            path: path.into(),
            message: "wrong".into(),
        };
        let error = ConfigError {
            problems: vec![problem("a.yaml", "b.c"), problem("", "b"), problem("a.yaml", "")],
        };
        assert_eq!(error.to_string(), "a.yaml: b.c: wrong\nb: wrong\na.yaml: wrong");
    }
}
