//! Formats, filters, and no control character in a line.

use super::*;
use std::io::Write;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

/// What is written while `log` runs.
fn written(setup: Setup<'_>, terminal: bool, log: impl FnOnce(&LogHandle, &Lines)) -> String {
    let lines = Lines::default();
    let writer = lines.clone();
    let (subscriber, handle) = setup.subscriber(move || writer.clone(), terminal).unwrap();
    tracing::subscriber::with_default(subscriber, || log(&handle, &lines));
    lines.take()
}

fn with(format: Format, filter: &str) -> LogConfig {
    LogConfig {
        format,
        filter: filter.into(),
        ..LogConfig::default()
    }
}

fn setup(config: &LogConfig) -> Setup<'_> {
    Setup {
        config,
        flag: None,
        env: None,
        traces: None,
    }
}

#[test]
fn json_has_the_facts_as_fields() {
    let config = with(Format::Auto, "info");
    let line = written(setup(&config), false, |_, _| {
        tracing::info!(bytes = 5, "pull finished")
    });
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&line["message"], &line["bytes"], &line["level"]),
        (&"pull finished".into(), &5.into(), &"INFO".into())
    );
}

#[test]
fn the_format_follows_the_terminal_unless_it_is_set() {
    for (format, terminal, json) in [
        (Format::Auto, true, false),
        (Format::Auto, false, true),
        (Format::Text, false, false),
        (Format::Json, true, true),
    ] {
        let config = with(format, "info");
        let line = written(setup(&config), terminal, |_, _| tracing::info!("hello"));
        assert_eq!(line.starts_with('{'), json, "{format:?} {terminal}: {line}");
        assert!(line.contains("hello"), "{line}");
    }
}

#[test]
fn the_flag_comes_before_the_environment_and_that_before_the_file() {
    let config = with(Format::Json, "error");
    let filter = |flag, env| setup(&config).filter_in_use(flag, env);
    assert_eq!(filter(Some("debug"), Some("warn")), "debug");
    assert_eq!(filter(None, Some("warn")), "warn");
    assert_eq!(filter(None, Some("")), "error");
}

impl Setup<'_> {
    fn filter_in_use(self, flag: Option<&str>, env: Option<&str>) -> String {
        let (_subscriber, handle) = Setup {
            config: self.config,
            flag,
            env,
            traces: None,
        }
        .subscriber(std::io::sink, false)
        .unwrap();
        handle.filter()
    }
}

#[test]
fn the_filter_can_be_changed_while_it_runs() {
    let config = with(Format::Json, "info");
    written(setup(&config), false, |handle, lines| {
        tracing::debug!("unseen");
        assert_eq!(lines.take(), "");
        handle.set("debug").unwrap();
        tracing::debug!("seen");
        assert!(lines.take().contains("seen"));
        assert!(handle.set("info,x=loud").is_err());
        assert_eq!(handle.filter(), "debug");
    });
}

#[test]
fn a_wrong_filter_says_what_would_be_right() {
    for wrong in ["", "loud=loud=loud", "a=b"] {
        let config = with(Format::Auto, wrong);
        let error = setup(&config)
            .subscriber(std::io::sink, false)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("write a level such as info"), "{error}");
        let mut problems = crate::config::Problems::new();
        config.validate(&mut problems);
        assert_eq!(problems.found().len(), 1);
    }
}

#[test]
fn a_flood_of_lines_is_cut_off_and_told() {
    let config = LogConfig {
        bytes_per_minute_max: ByteSize::kib(64),
        ..with(Format::Json, "info")
    };
    let mut registry = prometheus_client::registry::Registry::default();
    let text = written(setup(&config), false, |handle, _| {
        handle.register(&mut registry);
        for number in 0..10_000 {
            tracing::warn!(number, path = "/\u{1b}[2J\n\r", "a bad request");
        }
    });
    assert!(text.len() <= 64 * 1024, "{} bytes", text.len());
    assert!(text.lines().count() > 10);
    let mut lines = 0;
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        if line["message"] == "a bad request" {
            assert_eq!(line["path"], "/\u{1b}[2J\n\r");
            lines += 1;
        } else {
            assert!(line["lines"].as_u64().unwrap() > 0, "{line}");
        }
    }
    let lines = 10_000 - lines;
    let metrics = crate::metrics::encode(&registry);
    assert!(
        metrics.contains(&format!("darter_log_left_out_lines_total {lines}\n")),
        "{metrics}"
    );
}

#[test]
fn no_control_byte_of_a_stranger_reaches_the_terminal() {
    let config = with(Format::Text, "info");
    for terminal in [false, true] {
        let text = written(setup(&config), terminal, |_, _| {
            tracing::warn!(
                path = "/a\u{1b}]0;title\u{7}\u{9b}2J\nFORGED",
                "a \u{1b}[2J\rbad request"
            );
        });
        let body = text.strip_suffix('\n').unwrap();
        let plain = body.replace("\u{1b}[0m", "").replace("\u{1b}[2m", "");
        let plain = ["\u{1b}[33m", "\u{1b}[3m", "\u{1b}[1m"]
            .iter()
            .fold(plain, |text, colour| text.replace(colour, ""));
        assert!(!plain.contains(|c: char| c.is_control()), "{plain:?}");
    }
}
