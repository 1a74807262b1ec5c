//! Which build this is.

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// The version of the release.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that was built, from `DARTER_COMMIT` at build time; `unknown` where it was not given.
pub const COMMIT: &str = match option_env!("DARTER_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// For `--version` and the first line of the log: `0.1.0 (abc1234)`.
pub fn text() -> String {
    format!("{VERSION} ({COMMIT})")
}

/// Registers `darter_build_info`, whose labels say which build runs.
pub fn register(registry: &mut Registry) {
    let labels = vec![("version", VERSION), ("commit", COMMIT)];
    registry.register(
        "darter_build",
        "Version and commit of the running build",
        Info::new(labels),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metric_names_the_build() {
        let mut registry = Registry::default();
        register(&mut registry);
        let expected = format!("darter_build_info{{version=\"{VERSION}\",commit=\"{COMMIT}\"}} 1\n");
        let text = crate::metrics::encode(&registry);
        assert!(text.contains(&expected), "{text}");
    }
}
