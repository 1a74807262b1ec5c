//! Puts a configuration together from where it comes: defaults < file < environment < command line.
//!
//! This file knows the places and their notations; [`super::assembly`] knows what is right and what is not.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::assembly::Assembly;
use super::problems::{ConfigError, Problem, Validate};

/// Where a configuration comes from.
#[derive(Debug)]
pub struct Sources<'a, E> {
    /// The role, such as `proxy`: names the environment variables (`DARTER_PROXY__…`).
    pub role: &'a str,
    /// The YAML file, if one is named. One that cannot be read is a problem.
    pub file: Option<&'a Path>,
    /// The environment, usually `std::env::vars()`. `DARTER_PROXY__UPLOAD__RATE_LIMIT` sets `upload.rateLimit`.
    pub env: E,
    /// Settings of the command line: `upload.rateLimit=64MiB`. A part that has dots stands in quotes:
    /// `registries."docker.io".rateLimit=1MiB`.
    pub set: &'a [String],
}

/// Loads a configuration: defaults, overlaid with the file, the environment and the command line, in this order.
///
/// # Errors
/// Everything that is wrong with it, at once: unknown keys, wrong values, and what [`Validate::validate`] finds.
pub fn load<T>(sources: Sources<'_, impl Iterator<Item = (String, String)>>) -> Result<T, ConfigError>
where
    T: Serialize + DeserializeOwned + Default + Validate,
{
    let mut assembly = Assembly::<T>::new()?;
    if let Some(path) = sources.file {
        add_file(&mut assembly, path);
    }
    add_environment(&mut assembly, sources.role, sources.env);
    for setting in sources.set {
        add_setting(&mut assembly, setting);
    }
    assembly.finish()
}

/// A configuration of one value over the defaults, as a program gives it.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn from_value<T>(value: Value) -> Result<T, ConfigError>
where
    T: Serialize + DeserializeOwned + Default + Validate,
{
    let mut assembly = Assembly::<T>::new()?;
    assembly.give("", &[], value);
    assembly.finish()
}

/// The configuration as YAML, complete and with secrets hidden: for `/config` and for reading.
///
/// # Errors
/// A value that YAML cannot hold.
pub fn to_yaml<T: Serialize>(config: &T) -> Result<String, ConfigError> {
    serde_saphyr::to_string(config).map_err(|error| ConfigError {
        problems: vec![Problem {
            source: String::new(),
            path: String::new(),
            message: format!("the configuration cannot be written as YAML: {error}"),
        }],
    })
}

fn add_file<T>(assembly: &mut Assembly<T>, path: &Path)
where
    T: Serialize + DeserializeOwned + Default + Validate,
{
    let source = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => add_text(assembly, &source, &text),
        Err(error) => assembly.problem(&source, &[], format!("the file cannot be read: {error}")),
    }
}

fn add_text<T>(assembly: &mut Assembly<T>, source: &str, text: &str)
where
    T: Serialize + DeserializeOwned + Default + Validate,
{
    match parse_yaml(text) {
        Ok(value) => assembly.give(source, &[], value),
        Err(error) => assembly.problem(source, &[], format!("this is not YAML: {error}")),
    }
}

/// The body of a fuzz target: any bytes as the file of a role; a first line `#set a.b=c` is a setting of the command line.
///
/// # Panics
/// If a configuration is taken that is not taken again when it is written down, or means something else then.
pub fn fuzz_config<T>(data: &[u8])
where
    T: Serialize + DeserializeOwned + Default + Validate,
{
    let text = String::from_utf8_lossy(data);
    let setting = text.strip_prefix("#set ").and_then(|rest| rest.lines().next());
    let read = |text: &str, setting: Option<&str>| {
        let mut assembly = Assembly::<T>::new()?;
        add_text(&mut assembly, "fuzz", text);
        if let Some(setting) = setting {
            add_setting(&mut assembly, setting);
        }
        to_yaml(&assembly.finish()?)
    };
    let Ok(taken) = read(&text, setting) else { return };
    match read(&taken, None) {
        Ok(again) => assert_eq!(again, taken, "of {text:?}"),
        Err(error) => panic!("{text:?} was taken as {taken}, which is refused: {error}"),
    }
}

/// Only variables with a double underscore are settings: `DARTER_PROXY_PORT` may come from Kubernetes.
fn add_environment<T>(assembly: &mut Assembly<T>, role: &str, env: impl Iterator<Item = (String, String)>)
where
    T: Serialize + DeserializeOwned + Default + Validate,
{
    let prefix = format!("DARTER_{}__", role.to_ascii_uppercase().replace('-', "_"));
    // Sorted: which of two spellings of one key wins must not depend on the order of the environment.
    let settings: BTreeMap<String, String> = env.filter(|(name, _)| name.starts_with(&prefix)).collect();
    for (name, text) in settings {
        let Some(rest) = name.strip_prefix(&prefix) else {
            continue;
        };
        let parts: Vec<&str> = rest.split("__").collect();
        match assembly.resolve(&parts) {
            Ok(path) => assembly.give_text(&name, &path, &text),
            Err(message) => assembly.problem(&name, &[], message),
        }
    }
}

fn add_setting<T>(assembly: &mut Assembly<T>, setting: &str)
where
    T: Serialize + DeserializeOwned + Default + Validate,
{
    match split_setting(setting) {
        Some((path, text)) => match assembly.is_known(&path) {
            Ok(()) => assembly.give_text("--set", &path, text),
            Err(message) => assembly.problem("--set", &path, message),
        },
        None => {
            let message = format!("expected section.key=value, got {setting:?}");
            assembly.problem("--set", &[], message);
        }
    }
}

/// Splits `a."b.c".d=value` into its path and its value.
fn split_setting(setting: &str) -> Option<(Vec<String>, &str)> {
    let (mut path, mut rest) = (Vec::new(), setting);
    loop {
        let (part, tail) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => rest.split_at(rest.find(['.', '='])?),
        };
        if part.is_empty() {
            return None;
        }
        path.push(part.to_owned());
        if let Some(value) = tail.strip_prefix('=') {
            return Some((path, value));
        }
        rest = tail.strip_prefix('.')?;
    }
}

/// Reads one YAML document; the error is one line with its place.
pub(super) fn parse_yaml(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_saphyr::from_str(text).map_err(|error| {
        let text = error.without_snippet().to_string();
        text.lines().next().unwrap_or_default().to_owned()
    })
}

#[cfg(test)]
mod tests;
