//! `config/nydus-bridge.yaml` is the default, all of it, each key with a comment above it.

use std::path::Path;

use darter_nydus_bridge::config::Config;
use darter_service::config::{Sources, load, to_yaml};

/// The keys of a file with their indents, in order.
fn keys(text: &str) -> Vec<(usize, String)> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines
        .filter_map(|line| {
            let (key, _) = line.split_once(':')?;
            let name = key.trim_start();
            Some((key.len() - name.len(), name.to_owned()))
        })
        .collect()
}

#[test]
fn the_file_is_the_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/nydus-bridge.yaml");
    let loaded: Config = load(Sources {
        role: "bridge",
        file: Some(&path),
        env: std::iter::empty(),
        set: &[],
    })
    .unwrap();
    assert_eq!(loaded, Config::default());
    let text = std::fs::read_to_string(&path).unwrap();
    let all = to_yaml(&Config::default()).unwrap();
    assert_eq!(keys(&text), keys(&all), "{all}");
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.windows(2) {
        let is_key = !pair[1].trim_start().starts_with('#') && pair[1].contains(':');
        assert!(
            !is_key || pair[0].trim_start().starts_with('#'),
            "{:?} has no comment",
            pair[1]
        );
    }
}
