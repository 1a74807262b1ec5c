//! `config.toml` and what it imports: is there a `config_path` for registries, and if not, setting one.
//!
//! The section's name depends on the version of the format. containerd reads the main file, then its imports in
//! order, and lets a later file win; older releases even replace the whole section of a plugin. So an edit goes to
//! the last file that has the plugin's section.
//!
//! What must hold: only `config_path` keys are added or filled, and those of [`super::snapshotter`] (and `version` in an empty
//! file); all else stays byte for byte.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use toml_edit::{DocumentMut, Item, Value};

use super::snapshotter;
use crate::document::{self, child, indentation, wrong_type};
use crate::plan::Change;
use crate::{Error, rooted};

/// Nobody imports more; imports that name each other end here.
const IMPORTS_MAX: usize = 64;
/// What is written to an empty file: known to every containerd since 1.3, and 2.x reads it as well.
const NEW_FILE_VERSION: i64 = 2;
const VERSION_MAX: i64 = 4;

const TRANSFER: &str = "io.containerd.transfer.v1.local";
/// The names under which `disabled_plugins` turns off the part of CRI that pulls.
const CRI_NAMES: [&str; 3] = ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images"];

/// One file, read.
pub(super) struct File {
    pub(super) path: PathBuf,
    bytes: Option<Vec<u8>>,
    pub(super) document: DocumentMut,
    pub(super) version: i64,
}

/// The main file, then what it imports in containerd's order.
pub(super) struct Config {
    files: Vec<File>,
}

impl File {
    /// `inherited` is the version of the file that imports this one; `None` for the main file.
    fn load(root: &Path, path: &Path, inherited: Option<i64>) -> Result<Self, Error> {
        let bytes = rooted::read(root, path)?;
        let document = document::parse(path, bytes.as_deref().unwrap_or_default())?;
        let version = match document.get("version").map(|item| (item, item.as_integer())) {
            Some((_, Some(version @ 1..=VERSION_MAX))) => version,
            Some((_, Some(version))) => {
                return Err(Error::UnknownVersion {
                    path: path.to_path_buf(),
                    version,
                });
            }
            Some((_, None)) => return Err(wrong_type(path, "version", "a whole number")),
            // containerd's reading of a file without a version.
            None => inherited.unwrap_or(if document.is_empty() { NEW_FILE_VERSION } else { 1 }),
        };
        Ok(Self {
            path: path.to_path_buf(),
            bytes,
            document,
            version,
        })
    }

    fn plugin(&self) -> &'static str {
        match self.version {
            1 => "cri",
            2 => "io.containerd.grpc.v1.cri",
            _ => "io.containerd.cri.v1.images",
        }
    }

    fn has(&self, keys: &[&str]) -> bool {
        lookup(self.document.as_item(), keys).is_some()
    }

    /// The value of a `config_path`, which may be the empty string.
    fn config_path(&self, section: &[&str]) -> Result<Option<&str>, Error> {
        let keys = [section, &["config_path"]].concat();
        match lookup(self.document.as_item(), &keys) {
            None => Ok(None),
            Some(item) => match item.as_str() {
                Some(text) => Ok(Some(text)),
                None => Err(wrong_type(&self.path, &keys.join("."), "a text")),
            },
        }
    }

    /// containerd refuses mirrors and TLS settings beside `config_path`; credentials (`auth`) it still takes.
    fn check_deprecated(&self) -> Result<(), Error> {
        let section = ["plugins", self.plugin(), "registry"];
        let refuse = |key: &str| {
            Err(Error::DeprecatedRegistry {
                path: self.path.clone(),
                key: format!("plugins.\"{}\".registry.{key}", self.plugin()),
            })
        };
        let Some(registry) = lookup(self.document.as_item(), &section).and_then(Item::as_table_like) else {
            return Ok(());
        };
        let table = |key: &str| registry.get(key).and_then(Item::as_table_like);
        if table("mirrors").is_some_and(|mirrors| !mirrors.is_empty()) {
            return refuse("mirrors");
        }
        let tls = |item: &Item| {
            item.as_table_like()
                .is_some_and(|config| config.contains_key("tls"))
        };
        match table("configs").and_then(|configs| configs.iter().find(|(_, item)| tls(item))) {
            Some((host, _)) => refuse(&format!("configs.\"{host}\".tls")),
            None => Ok(()),
        }
    }

    fn imports(&self, root: &Path) -> Result<Vec<PathBuf>, Error> {
        let Some(item) = self.document.get("imports") else {
            return Ok(Vec::new());
        };
        let wrong = || wrong_type(&self.path, "imports", "a list of paths");
        let mut paths = Vec::new();
        for pattern in item.as_array().ok_or_else(wrong)? {
            let pattern = pattern.as_str().ok_or_else(wrong)?;
            // `join` takes an absolute path as it is.
            let pattern = self.path.parent().unwrap_or(Path::new("/")).join(pattern);
            let directory = pattern.parent().unwrap_or(Path::new("/")).to_path_buf();
            let name = pattern
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            match name.contains(['*', '?']) {
                false => paths.push(pattern.clone()),
                true => {
                    let names = rooted::names(root, &directory)?;
                    paths.extend(
                        names
                            .iter()
                            .filter(|found| glob(name, found))
                            .map(|found| directory.join(found)),
                    );
                }
            }
        }
        Ok(paths)
    }
}

impl Config {
    /// Reads the file and its imports; a main file that does not exist is an empty one.
    pub(super) fn load(root: &Path, path: &Path) -> Result<Self, Error> {
        let main = File::load(root, path, None)?;
        let version = main.version;
        let mut pending: VecDeque<PathBuf> = main.imports(root)?.into();
        let mut files = vec![main];
        while let Some(path) = pending.pop_front() {
            if files.len() > IMPORTS_MAX {
                return Err(wrong_type(
                    &path,
                    "imports",
                    "a short list: more than 64 files are imported",
                ));
            }
            if files.iter().any(|file| file.path == path) {
                continue;
            }
            let file = File::load(root, &path, Some(version))?;
            if file.bytes.is_none() {
                continue;
            }
            pending.extend(file.imports(root)?);
            files.push(file);
        }
        Ok(Self { files })
    }

    /// The version of the main file.
    pub(super) fn version(&self) -> i64 {
        self.files.first().map_or(NEW_FILE_VERSION, |main| main.version)
    }

    /// When one of the files was changed last.
    pub(super) fn changed(&self, root: &Path) -> Result<Option<SystemTime>, Error> {
        let times = self
            .files
            .iter()
            .map(|file| rooted::modified(root, &file.path))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(times.into_iter().flatten().max())
    }

    /// Whether any file disables CRI.
    pub(super) fn cri_disabled(&self) -> bool {
        let lists = self
            .files
            .iter()
            .filter_map(|file| file.document.get("disabled_plugins")?.as_array());
        lists
            .flatten()
            .filter_map(Value::as_str)
            .any(|name| CRI_NAMES.contains(&name))
    }

    /// The directories of `config_path` as containerd sees it in the end; `None` if it is not set.
    pub(super) fn directories(&self) -> Result<Option<Vec<PathBuf>>, Error> {
        let mut effective = None;
        for file in &self.files {
            file.check_deprecated()?;
            if let Some(text) = file.config_path(&["plugins", file.plugin(), "registry"])? {
                effective = Some(text);
            }
        }
        let directories: Vec<PathBuf> = effective
            .unwrap_or_default()
            .split(':')
            .filter(|part| !part.is_empty())
            .map(PathBuf::from)
            .collect();
        Ok((!directories.is_empty()).then_some(directories))
    }

    /// Sets `config_path` where containerd will see it, and that of the transfer service in formats that have it
    /// apart. Called once, and only if [`Config::directories`] found none.
    pub(super) fn set_directory(&mut self, directory: &str) -> Result<(), Error> {
        let target = self.last_with_plugin();
        let transfer_elsewhere = self
            .files
            .iter()
            .enumerate()
            .any(|(n, file)| n != target && file.has(&["plugins", TRANSFER]));
        let file = self.file(target);
        let plugin = file.plugin();
        set(file, &["plugins", plugin, "registry"], directory)?;
        let transfer = ["plugins", TRANSFER];
        if file.version >= 3
            && !transfer_elsewhere
            && file.config_path(&transfer)?.unwrap_or_default().is_empty()
        {
            set(file, &transfer, directory)?;
        }
        Ok(())
    }

    /// Tells containerd of the snapshotter at `socket`, and CRI to take it.
    pub(super) fn set_snapshotter(&mut self, socket: &str) -> Result<(), Error> {
        let named = self.files.iter().rposition(|file| file.has(&["proxy_plugins"]));
        snapshotter::set_plugin(self.file(named.unwrap_or(0)), socket)?;
        let target = self.last_with_plugin();
        snapshotter::set_cri(self.file(target))
    }

    /// The last file that has CRI's section: containerd believes it.
    fn last_with_plugin(&self) -> usize {
        let with = |file: &File| file.has(&["plugins", file.plugin()]);
        self.files.iter().rposition(with).unwrap_or(0)
    }

    /// A file that is to be edited; one that was empty gets a version.
    fn file(&mut self, number: usize) -> &mut File {
        // `load` puts the main file there always.
        let Some(file) = self.files.get_mut(number) else {
            unreachable!("a configuration has a main file")
        };
        if file.document.is_empty() {
            file.document
                .insert("version", Item::Value(NEW_FILE_VERSION.into()));
        }
        file
    }

    /// The files that were edited.
    pub(super) fn changes(&self) -> Vec<Change> {
        let edited = self.files.iter().filter_map(|file| {
            let after = file.document.to_string().into_bytes();
            let is_new = after != file.bytes.as_deref().unwrap_or_default();
            is_new.then(|| Change {
                path: file.path.clone(),
                before: file.bytes.clone(),
                after: Some(after),
                restart: true,
                private: false,
            })
        });
        edited.collect()
    }
}

fn lookup<'t>(item: &'t Item, keys: &[&str]) -> Option<&'t Item> {
    keys.iter()
        .try_fold(item, |item, key| item.as_table_like()?.get(key))
}

fn set(file: &mut File, section: &[&str], directory: &str) -> Result<(), Error> {
    let mut item = file.document.as_item_mut();
    for key in section {
        item = child(item, key).ok_or_else(|| wrong_type(&file.path, &section.join("."), "a table"))?;
    }
    let not_a_table = || wrong_type(&file.path, &section.join("."), "a table");
    let table = item.as_table_like_mut().ok_or_else(not_a_table)?;
    let indent = table
        .iter()
        .next()
        .and_then(|(first, _)| table.key(first))
        .and_then(indentation);
    match table.get_mut("config_path").and_then(Item::as_value_mut) {
        Some(old) => {
            let decor = old.decor().clone();
            *old = directory.into();
            *old.decor_mut() = decor;
        }
        None => {
            table.insert("config_path", Item::Value(directory.into()));
            if let (Some(indent), Some(mut key)) = (indent, table.key_mut("config_path")) {
                key.leaf_decor_mut().set_prefix(indent);
            }
        }
    }
    Ok(())
}

/// A file name against a pattern with `*` and `?`; containerd's brackets are not used in practice.
fn glob(pattern: &str, name: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => name.is_empty(),
        Some('*') => {
            let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            ends.into_iter()
                .any(|at| name.get(at..).is_some_and(|tail| glob(rest.as_str(), tail)))
        }
        Some(wanted) => {
            let mut chars = name.chars();
            chars
                .next()
                .is_some_and(|c| (wanted == '?' || c == wanted) && glob(rest.as_str(), chars.as_str()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_like_a_shell() {
        for (pattern, name, expected) in [
            ("*.toml", "a.toml", true),
            ("*.toml", "a.toml.bak", false),
            ("*", "", true),
            ("?-*x", "a-bcx", true),
            ("?-*x", "-bcx", false),
            ("a", "a", true),
            ("a", "ab", false),
        ] {
            assert_eq!(glob(pattern, name), expected, "{pattern} {name}");
        }
    }
}
