//! `daemon.json`: reading the few keys that matter, and setting `registry-mirrors` with everything else as it was.
//!
//! Pure. JSON has no comments, but it has an order and a layout, and both stay: only the value of one key is
//! replaced, or one key is put in front of the others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use crate::document::wrong_type;
use crate::{Error, Mirror};

const MIRRORS: &str = "registry-mirrors";
/// How a new key is set in.
const INDENT: &str = "  ";

/// A `daemon.json`, read. An empty file is one without settings, as it is to the daemon.
pub(super) struct Daemon<'t> {
    path: PathBuf,
    text: &'t str,
    values: BTreeMap<String, Value>,
}

impl<'t> Daemon<'t> {
    pub(super) fn parse(path: &Path, bytes: &'t [u8]) -> Result<Self, Error> {
        let text = std::str::from_utf8(bytes).map_err(|_| Error::NotText {
            path: path.to_path_buf(),
        })?;
        let values = match text.trim() {
            "" => BTreeMap::new(),
            _ => serde_json::from_str(text).map_err(|error| Error::InvalidJson {
                path: path.to_path_buf(),
                line: error.line(),
                message: error.to_string(),
            })?,
        };
        Ok(Self {
            path: path.to_path_buf(),
            text,
            values,
        })
    }

    /// Whether a key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The value of a key that holds a text.
    pub(super) fn text(&self, key: &str) -> Result<Option<String>, Error> {
        self.get(key, "a text")
    }

    /// Whether the containerd image store is turned on or off by name.
    pub(super) fn containerd_store(&self) -> Result<Option<bool>, Error> {
        let features: Option<BTreeMap<String, bool>> = self.get("features", "an object of true and false")?;
        Ok(features.and_then(|features| features.get("containerd-snapshotter").copied()))
    }

    pub(super) fn insecure_registries(&self) -> Result<Vec<String>, Error> {
        Ok(self
            .get("insecure-registries", "a list of texts")?
            .unwrap_or_default())
    }

    /// Whether the proxy is the first of the mirrors; `None` if it is none of them.
    pub(super) fn place_of(&self, ours: &Mirror) -> Result<Option<bool>, Error> {
        let mirrors = self.mirrors()?;
        let place = mirrors.iter().position(|mirror| ours.is_host_key(mirror));
        Ok(place.map(|place| place == 0))
    }

    /// The proxy for TLS that is set.
    pub(super) fn proxy(&self) -> Result<Option<String>, Error> {
        let proxies: Option<BTreeMap<String, String>> = self.get("proxies", "an object of texts")?;
        Ok(proxies.and_then(|proxies| proxies.get("https-proxy").cloned()))
    }

    /// The mirrors that are set, without the proxy.
    pub(super) fn other_mirrors(&self, ours: &Mirror) -> Result<Vec<String>, Error> {
        let mut mirrors = self.mirrors()?;
        mirrors.retain(|mirror| !ours.is_host_key(mirror));
        Ok(mirrors)
    }

    /// The text with the proxy as its first mirror; the very same text if it is that already.
    pub(super) fn with_mirror_first(&self, ours: &Mirror) -> Result<String, Error> {
        let held = self.mirrors()?;
        if held.first().is_some_and(|first| ours.is_host_key(first)) {
            return Ok(self.text.to_owned());
        }
        let quoted = Value::from(ours.as_str()).to_string();
        let list = |old: &str| match held.iter().any(|mirror| ours.is_host_key(mirror)) {
            false => prepend(old, &quoted),
            true => {
                let others = held.iter().filter(|mirror| !ours.is_host_key(mirror));
                let others: String = others
                    .map(|mirror| format!(", {}", Value::from(mirror.as_str())))
                    .collect();
                format!("[{quoted}{others}]")
            }
        };
        if self.values.contains_key(MIRRORS) {
            return self.replace(list);
        }
        Ok(self.insert(&format!("\"{MIRRORS}\": [{quoted}]")))
    }

    fn mirrors(&self) -> Result<Vec<String>, Error> {
        Ok(self.get(MIRRORS, "a list of texts")?.unwrap_or_default())
    }

    fn get<T: DeserializeOwned>(&self, key: &str, expected: &'static str) -> Result<Option<T>, Error> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        serde_json::from_value(value.clone()).map_err(|_| wrong_type(&self.path, key, expected))
    }

    /// Puts one member in front of the others, laid out like them.
    fn insert(&self, member: &str) -> String {
        let body = self.text.split_once('{').map_or("", |(_, body)| body);
        let rest = body.trim_start();
        if self.values.is_empty() {
            return format!("{{\n{INDENT}{member}\n}}\n");
        }
        let blanks = body.get(..body.len() - rest.len()).unwrap_or_default();
        let head = self.text.get(..self.text.len() - body.len()).unwrap_or("{");
        let gap = if blanks.is_empty() { " " } else { blanks };
        format!("{head}{blanks}{member},{gap}{rest}")
    }

    /// Replaces the list of mirrors. Where a key stands twice, the daemon takes the last, and so does this.
    fn replace(&self, list: impl Fn(&str) -> String) -> Result<String, Error> {
        let found = self.last_value_of(MIRRORS);
        let (start, end) = found.ok_or_else(|| wrong_type(&self.path, MIRRORS, "a list of texts"))?;
        let part = |range: std::ops::Range<usize>| self.text.get(range).unwrap_or_default();
        let new = list(part(start..end));
        Ok(format!("{}{new}{}", part(0..start), part(end..self.text.len())))
    }

    /// Where the value of the last member `key` of the outermost object begins and ends.
    fn last_value_of(&self, key: &str) -> Option<(usize, usize)> {
        let mut found = None;
        let mut at = self.text.find('{')? + 1;
        loop {
            at = self.skip(at, &[',']);
            let (name, end) = read::<String>(self.text, at)?;
            let start = self.skip(end, &[':']);
            let (_, end) = read::<IgnoredAny>(self.text, start)?;
            if name == key {
                found = Some((start, end));
            }
            at = end;
            if self.text.get(self.skip(at, &[])..)?.starts_with('}') {
                return found;
            }
        }
    }

    /// The first place from `at` on that is neither blank nor one of `marks`.
    fn skip(&self, at: usize, marks: &[char]) -> usize {
        let rest = self.text.get(at..).unwrap_or_default();
        let skipped = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || marks.contains(&c));
        self.text.len() - skipped.len()
    }
}

/// One JSON value at `at`, and where it ends.
fn read<T: DeserializeOwned>(text: &str, at: usize) -> Option<(T, usize)> {
    let mut values = serde_json::Deserializer::from_str(text.get(at..)?).into_iter::<T>();
    let value = values.next()?.ok()?;
    Some((value, at + values.byte_offset()))
}

/// Puts `quoted` in front of a JSON list's values, laid out like the first of them.
fn prepend(list: &str, quoted: &str) -> String {
    let body = list.strip_prefix('[').unwrap_or(list);
    let rest = body.trim_start();
    if rest == "]" {
        return format!("[{quoted}]");
    }
    let blanks = body.get(..body.len() - rest.len()).unwrap_or_default();
    let gap = if blanks.is_empty() { " " } else { blanks };
    format!("[{blanks}{quoted},{gap}{rest}")
}
