//! A configuration in the making: a tree that can always be deserialised, and the problems with what was refused.
//!
//! Each value is tried alone on what is right so far. So a wrong value never hides another one, and every problem has
//! its own path.

mod message;
mod tree;

use std::collections::BTreeMap;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::load::parse_yaml;
use super::problems::{ConfigError, Problem, Problems, Validate};
use super::suggest::normal;
use message::{reworded, unknown_among};
use tree::{camel, lookup, put, remove, shown};

/// Most problems that are reported inside one value; more help nobody.
const INNER_PROBLEMS_MAX: usize = 32;

/// What may stand at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A fixed set of keys.
    Section,
    /// A map that takes any key.
    FreeForm,
    /// A value, or the inside of one: its type knows what is right.
    Value,
    /// Nothing.
    Unknown,
}

/// What deserialising says: where, and what.
struct Refusal {
    path: Vec<String>,
    /// Whether the path has keys only, so that it can be removed.
    plain: bool,
    message: String,
}

pub(super) struct Assembly<T> {
    defaults: Value,
    tree: Value,
    /// Where each value came from, by its path as shown.
    origins: BTreeMap<String, String>,
    problems: Vec<Problem>,
    of: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned + Default + Validate> Assembly<T> {
    /// The defaults. An error is a defect of the configuration's type.
    pub(super) fn new() -> Result<Self, ConfigError> {
        let defect = |message: String| ConfigError {
            problems: vec![Problem {
                source: "defaults".into(),
                path: String::new(),
                message,
            }],
        };
        let defaults = serde_json::to_value(T::default()).map_err(|error| defect(error.to_string()))?;
        parse::<T>(&defaults)
            .map_err(|refusal| defect(format!("{}: {}", shown(&refusal.path), refusal.message)))?;
        Ok(Self {
            tree: defaults.clone(),
            defaults,
            origins: BTreeMap::new(),
            problems: Vec::new(),
            of: PhantomData,
        })
    }

    /// Notes that something is wrong.
    pub(super) fn problem(&mut self, source: &str, path: &[String], message: String) {
        self.problems.push(Problem {
            source: source.to_owned(),
            path: shown(path),
            message,
        });
    }

    fn kind(&self, path: &[String]) -> Kind {
        let text = path.join(".");
        if T::free_form().contains(&text.as_str()) {
            return Kind::FreeForm;
        }
        let inside = |end: usize| path.get(..end).is_some_and(|above| self.holds_anything(above));
        match lookup(&self.defaults, path) {
            _ if (0..path.len()).any(inside) => Kind::Value,
            Some(Value::Object(_)) => Kind::Section,
            Some(_) => Kind::Value,
            None => Kind::Unknown,
        }
    }

    /// Whether anything may stand below a path, as far as the defaults tell: a free map, or an absent section.
    fn holds_anything(&self, path: &[String]) -> bool {
        T::free_form().contains(&path.join(".").as_str())
            || matches!(lookup(&self.defaults, path), Some(Value::Null))
    }

    /// Takes a value with all that is below it.
    pub(super) fn give(&mut self, source: &str, path: &[String], value: Value) {
        match (self.kind(path), value) {
            (Kind::Unknown, _) => {
                let message = self.unknown(path);
                self.problem(source, path, message);
            }
            // A section whose keys are all commented out.
            (Kind::Section | Kind::FreeForm, Value::Null) => {}
            (Kind::Section, Value::Object(map)) => {
                for (key, value) in sorted(map) {
                    self.give(source, &below(path, &key), value);
                }
            }
            (Kind::FreeForm, Value::Object(map)) => {
                for (key, value) in sorted(map) {
                    self.try_entry(source, &below(path, &key), value);
                }
            }
            (Kind::Section | Kind::FreeForm, other) => {
                let message = format!("expected a section with keys of its own, got {}", short(&other));
                self.problem(source, path, message);
            }
            (Kind::Value, value) => self.try_tree(source, path, value),
        }
    }

    /// Takes a value written without quotes, where texts and numbers look alike.
    pub(super) fn give_text(&mut self, source: &str, path: &[String], text: &str) {
        let read = parse_yaml(text).ok();
        if self.kind(path) != Kind::Value {
            return self.give(
                source,
                path,
                read.unwrap_or_else(|| Value::String(text.to_owned())),
            );
        }
        // As a text first: `pass #1` must stay whole, and `123` may be a password.
        let Err(refusal) = self.try_value(source, path, Value::String(text.to_owned())) else {
            return;
        };
        match read {
            Some(value) if !value.is_string() => self.try_tree(source, path, value),
            _ => self.problem(source, &refusal.path, refusal.message),
        }
    }

    /// Whether a path of the command line may be set; says why not.
    pub(super) fn is_known(&self, path: &[String]) -> Result<(), String> {
        let known = |end: usize| {
            path.get(..end)
                .is_some_and(|above| self.kind(above) != Kind::Unknown)
        };
        match (1..=path.len()).find(|end| !known(*end)) {
            None => Ok(()),
            Some(end) => Err(self.unknown(path.get(..end).unwrap_or(path))),
        }
    }

    /// The path that the parts of an environment variable's name mean.
    pub(super) fn resolve(&self, parts: &[&str]) -> Result<Vec<String>, String> {
        let mut path: Vec<String> = Vec::new();
        for part in parts {
            let kind = self.kind(&path);
            let among = lookup(&self.tree, &path).and_then(Value::as_object);
            let known = among.into_iter().flat_map(Map::keys);
            match known.clone().find(|key| normal(key) == normal(part)) {
                Some(key) => path.push(key.clone()),
                None if kind == Kind::FreeForm => {
                    return Err(format!(
                        "{} has no entry {part}: add it to the file, then a variable can change it",
                        shown(&path)
                    ));
                }
                // The type knows whether it has this key.
                None if kind == Kind::Value => path.push(camel(part)),
                None => return Err(unknown_among(part, known.map(String::as_str))),
            }
        }
        Ok(path)
    }

    fn unknown(&self, path: &[String]) -> String {
        let Some((key, above)) = path.split_last() else {
            return "unknown key".into();
        };
        let among = lookup(&self.defaults, above).and_then(Value::as_object);
        unknown_among(key, among.into_iter().flat_map(Map::keys).map(String::as_str))
    }

    /// An entry of a free map; `docker.io:` with nothing below it is an entry with defaults.
    fn try_entry(&mut self, source: &str, path: &[String], value: Value) {
        if value.is_null() && self.try_value(source, path, Value::Object(Map::new())).is_ok() {
            return;
        }
        self.try_tree(source, path, value);
    }

    /// Tries a value; of one with parts, what is wrong is reported and left out, and the rest tried again.
    fn try_tree(&mut self, source: &str, path: &[String], mut value: Value) {
        for round in 0..INNER_PROBLEMS_MAX {
            let Err(refusal) = self.try_value(source, path, value.clone()) else {
                return;
            };
            // What was left out may be missed now: that is not a problem of its own.
            if round == 0 || !refusal.message.starts_with("missing") {
                self.problem(source, &refusal.path, refusal.message);
            }
            let inner = refusal.path.strip_prefix(path).unwrap_or_default();
            if !refusal.plain || !remove(&mut value, inner) {
                return;
            }
        }
    }

    /// Takes the value if the whole can be deserialised with it.
    fn try_value(&mut self, source: &str, path: &[String], value: Value) -> Result<(), Refusal> {
        let mut trial = self.tree.clone();
        put(&mut trial, path, value);
        match parse::<T>(&trial) {
            Ok(_) => {
                self.tree = trial;
                self.origins.insert(shown(path), source.to_owned());
                Ok(())
            }
            // An error above the value, such as an untagged choice, is still an error of this value.
            Err(refusal) if !refusal.path.starts_with(path) => Err(Refusal {
                path: path.to_vec(),
                plain: false,
                message: refusal.message,
            }),
            Err(refusal) => Err(refusal),
        }
    }

    /// The configuration, or all that is wrong with it.
    pub(super) fn finish(mut self) -> Result<T, ConfigError> {
        let config: T = match parse(&self.tree) {
            Ok(config) => config,
            Err(refusal) => {
                self.problem("", &refusal.path, refusal.message);
                return Err(ConfigError {
                    problems: self.problems,
                });
            }
        };
        let mut rules = Problems::new();
        config.validate(&mut rules);
        for (path, message) in rules.found() {
            // A rule that misses a value which was refused says nothing new.
            if self.problems.iter().any(|problem| is_within(&problem.path, path)) {
                continue;
            }
            let source = self.origin(path);
            self.problems.push(Problem {
                source,
                path: path.clone(),
                message: message.clone(),
            });
        }
        if self.problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError {
                problems: self.problems,
            })
        }
    }

    /// Where the value at a path came from: it, something in it, or what it is in.
    fn origin(&self, path: &str) -> String {
        let related = |known: &str| is_within(known, path) || is_within(path, known);
        let found = self
            .origins
            .iter()
            .filter(|(known, _)| related(known))
            .max_by_key(|(known, _)| known.len());
        found.map(|(_, source)| source.clone()).unwrap_or_default()
    }
}

fn is_within(inner: &str, outer: &str) -> bool {
    inner
        .strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn below(path: &[String], key: &str) -> Vec<String> {
    path.iter().cloned().chain([key.to_owned()]).collect()
}

/// Whether the map itself is sorted depends on a feature that any crate may switch on.
fn sorted(map: Map<String, Value>) -> BTreeMap<String, Value> {
    map.into_iter().collect()
}

/// A value as it may stand in a message.
fn short(value: &Value) -> String {
    value.to_string().chars().take(64).collect()
}

fn parse<T: DeserializeOwned>(tree: &Value) -> Result<T, Refusal> {
    serde_path_to_error::deserialize(tree).map_err(|error| {
        let (path, plain) = tree::keys(error.path());
        Refusal {
            message: reworded(&error.inner().to_string()),
            path,
            plain,
        }
    })
}
