//! A `BuildKit` daemon of its own: `mirrors` of a registry in `buildkitd.toml`.
//!
//! It sends `ns`, so the mirror needs no path. Builds inside the Docker daemon use Docker's settings; a daemon in a
//! container (the `docker-container` driver of buildx) has a loopback of its own and needs another address.

use std::path::{Path, PathBuf};

use toml_edit::{Array, Item, Value};

use crate::document::{self, child, indentation, wrong_type};
use crate::plan::Change;
use crate::{Error, Mirror, Note, Plan, Registry, Runtime, backup, rooted};

const CONFIG: &str = "/etc/buildkit/buildkitd.toml";

/// What `darter setup buildkit` was asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node's file system: `/`, or where it is mounted.
    pub root: PathBuf,
    /// The `buildkitd.toml` to use instead of `/etc/buildkit/buildkitd.toml`; as seen from inside the root.
    pub config: Option<PathBuf>,
    /// The address of the proxy.
    pub mirror: Mirror,
    /// The registries to pull through the proxy; empty means Docker Hub.
    pub registries: Vec<Registry>,
}

impl Options {
    /// The defaults: Docker Hub, the proxy at `http://127.0.0.1:4001`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            config: None,
            mirror: Mirror::default(),
            registries: Vec::new(),
        }
    }
}

/// What has to change so that builds pull through the proxy. Reads only.
///
/// # Errors
/// Any [`Error`] about what is there now: unreadable, invalid, or of another type than the daemon expects.
pub fn plan(options: &Options) -> Result<Plan, Error> {
    let authority = options.mirror.authority()?;
    let path = options.config.clone().unwrap_or_else(|| PathBuf::from(CONFIG));
    let before = rooted::read(&options.root, &path)?;
    let mut document = document::parse(&path, before.as_deref().unwrap_or_default())?;
    let registries = match options.registries.as_slice() {
        [] => vec!["docker.io".parse()?],
        named => named.to_vec(),
    };
    for registry in &registries {
        set_mirror(&path, document.as_item_mut(), registry.name()?, authority)?;
    }
    if options.mirror.is_http() {
        set_http(&path, document.as_item_mut(), authority)?;
    }
    let after = document.to_string().into_bytes();
    let mut plan = Plan::new(&options.root, Runtime::Buildkit);
    if before.as_ref() != Some(&after) {
        plan.note(Note::RestartNeeded {
            path: path.clone(),
            runtime: Runtime::Buildkit,
        });
        plan.change(Change {
            path,
            before,
            after: Some(after),
            restart: true,
            private: false,
        });
    }
    Ok(plan)
}

/// What has to change to take back every [`plan`] that was applied with the same `state_dir`. Reads only.
///
/// # Errors
/// [`Error::BadRecord`] if the record is damaged, and errors of reading.
pub fn undo(root: &Path, state_dir: &Path) -> Result<Plan, Error> {
    backup::undo(root, state_dir, Runtime::Buildkit)
}

/// Puts the proxy in front of a registry's other mirrors.
fn set_mirror(path: &Path, root: &mut Item, registry: &str, authority: &str) -> Result<(), Error> {
    let name = format!("registry.\"{registry}\"");
    let section = section(path, root, registry, &name)?;
    let mirrors = format!("{name}.mirrors");
    let wrong = || wrong_type(path, &mirrors, "a list of texts");
    match section.get_mut("mirrors") {
        Some(Item::Value(Value::Array(array))) => {
            if !array.iter().all(Value::is_str) {
                return Err(wrong());
            }
            let found = array.iter().position(|value| value.as_str() == Some(authority));
            if found == Some(0) {
                return Ok(());
            }
            found.map(|index| array.remove(index));
            let decor = array.get(0).map(|first| first.decor().clone());
            let mut ours = Value::from(authority);
            if let Some(decor) = decor {
                // The layout of the value whose place this takes; that one is now behind it.
                ours.decor_mut()
                    .set_prefix(decor.prefix().cloned().unwrap_or_default());
                if let Some(next) = array.get_mut(0)
                    && next.decor().prefix().and_then(|prefix| prefix.as_str()) == Some("")
                {
                    next.decor_mut().set_prefix(" ");
                }
            }
            array.insert_formatted(0, ours);
            Ok(())
        }
        Some(_) => Err(wrong()),
        None => {
            insert(section, "mirrors", Value::Array(Array::from_iter([authority])));
            Ok(())
        }
    }
}

/// The proxy speaks plain HTTP.
fn set_http(path: &Path, root: &mut Item, authority: &str) -> Result<(), Error> {
    let name = format!("registry.\"{authority}\"");
    let section = section(path, root, authority, &name)?;
    match section.get("http") {
        Some(item) if item.as_bool() == Some(true) => {}
        Some(item) if item.as_bool().is_none() => {
            return Err(wrong_type(path, &format!("{name}.http"), "true or false"));
        }
        _ => insert(section, "http", true.into()),
    }
    Ok(())
}

/// The table of one registry, made if it is not there.
fn section<'t>(
    path: &Path,
    root: &'t mut Item,
    registry: &str,
    name: &str,
) -> Result<&'t mut dyn toml_edit::TableLike, Error> {
    let all = child(root, "registry").ok_or_else(|| wrong_type(path, "registry", "a table"))?;
    let one = child(all, registry).ok_or_else(|| wrong_type(path, "registry", "a table"))?;
    if let Item::Table(table) = one
        && table.is_empty()
        && table.is_implicit()
    {
        table.decor_mut().set_prefix("\n");
    }
    one.as_table_like_mut()
        .ok_or_else(|| wrong_type(path, name, "a table"))
}

/// Sets a key, set in like its neighbours.
fn insert(table: &mut dyn toml_edit::TableLike, key: &str, value: Value) {
    let first = table.iter().next().map(|(first, _)| first.to_owned());
    let indent = first
        .and_then(|first| table.key(&first).and_then(indentation))
        .unwrap_or_default();
    let is_new = !table.contains_key(key);
    document::set(table, key, value);
    if is_new && let Some(mut key) = table.key_mut(key) {
        key.leaf_decor_mut().set_prefix(indent);
    }
}

#[cfg(test)]
mod tests;
