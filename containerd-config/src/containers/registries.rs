//! One file in the format of `registries.conf`, version 2: its `[[registry]]` entries and their mirrors.

use std::path::{Path, PathBuf};

use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, TableLike, Value};

use crate::document::{self, Entry, set, wrong_type};
use crate::{Error, Runtime};

/// A file, read and perhaps edited.
pub(super) struct File {
    path: PathBuf,
    before: Option<Vec<u8>>,
    document: DocumentMut,
    changed: bool,
}

/// A registry that is to be pulled through the proxy.
pub(super) struct Mirrored<'n> {
    /// As image names have it.
    pub(super) name: &'n str,
    /// The proxy's `host:port`.
    pub(super) authority: &'n str,
    /// Whether the proxy is reached without TLS.
    pub(super) insecure: bool,
    /// Whether only digests are asked of it.
    pub(super) digest_only: bool,
}

impl File {
    pub(super) fn parse(path: PathBuf, bytes: Option<Vec<u8>>) -> Result<Self, Error> {
        let document = document::parse(&path, bytes.as_deref().unwrap_or_default())?;
        Ok(Self {
            path,
            before: bytes,
            document,
            changed: false,
        })
    }

    pub(super) fn empty(path: PathBuf) -> Self {
        Self {
            path,
            before: None,
            document: DocumentMut::new(),
            changed: false,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What was read, and what is to be there.
    pub(super) fn into_contents(self) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let after = match self.changed {
            true => Some(self.document.to_string().into_bytes()),
            false => self.before.clone(),
        };
        (self.before, after)
    }

    /// Whether there is an entry for exactly this registry.
    pub(super) fn has(&self, name: &str) -> Result<bool, Error> {
        let entries = self.entries()?;
        Ok(entries.is_some_and(|entries| entries.iter().any(|entry| prefix(entry) == Some(name))))
    }

    /// Prefixes of entries for a part of the registry.
    pub(super) fn narrower(&self, name: &str) -> Result<Vec<String>, Error> {
        let below = |prefix: &&str| {
            prefix
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('/'))
        };
        let entries = self.entries()?.into_iter().flatten();
        Ok(entries
            .filter_map(prefix)
            .filter(below)
            .map(str::to_owned)
            .collect())
    }

    /// Makes the proxy the first mirror of the registry; answers where its images are if that may be reached without
    /// TLS.
    pub(super) fn set(&mut self, mirrored: &Mirrored<'_>) -> Result<Option<String>, Error> {
        self.entries()?;
        let before = self.document.to_string();
        let leads = self.document.is_empty();
        let entries = self
            .document
            .entry("registry")
            .or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
        let entries = entries
            .as_array_of_tables_mut()
            .ok_or_else(|| not_entries(&self.path))?;
        if !entries.iter().any(|entry| prefix(entry) == Some(mirrored.name)) {
            entries.push(new_entry(mirrored.name, leads));
        }
        let entry = entries
            .iter_mut()
            .find(|entry| prefix(entry) == Some(mirrored.name));
        let mut insecure = None;
        if let Some(entry) = entry {
            let host = upstream(entry, mirrored.name).split('/').next();
            let is_insecure = entry.get("insecure").and_then(Item::as_bool) == Some(true);
            insecure = host.filter(|_| is_insecure).map(str::to_owned);
            set_mirror(&self.path, entry, mirrored)?;
        }
        self.changed |= self.document.to_string() != before;
        Ok(insecure)
    }

    fn entries(&self) -> Result<Option<&ArrayOfTables>, Error> {
        match self.document.get("registry") {
            None => Ok(None),
            Some(Item::ArrayOfTables(entries)) => Ok(Some(entries)),
            Some(_) => Err(not_entries(&self.path)),
        }
    }
}

fn not_entries(path: &Path) -> Error {
    wrong_type(path, "registry", "written as [[registry]] entries")
}

/// The prefix that an entry stands for.
fn prefix(entry: &Table) -> Option<&str> {
    let text = |key| {
        entry
            .get(key)
            .and_then(Item::as_str)
            .filter(|text| !text.is_empty())
    };
    text("prefix").or_else(|| text("location"))
}

fn new_entry(name: &str, leads: bool) -> Table {
    let mut entry = Table::new();
    entry.decor_mut().set_prefix(format!(
        "{}{}",
        if leads { "" } else { "\n" },
        Runtime::Containers.comment()
    ));
    entry.insert("prefix", Item::Value(name.into()));
    entry.insert("location", Item::Value(name.into()));
    entry
}

/// A location as the first parts of a mirror's path. A repository's name holds no colon, so the port follows an
/// underscore, as the proxy reads it.
fn in_path(location: &str) -> String {
    location.replacen(':', "_", 1)
}

/// Where the images really are: an entry may send a prefix elsewhere.
fn upstream<'t>(entry: &'t Table, name: &'t str) -> &'t str {
    let location = entry.get("location").and_then(Item::as_str);
    location.filter(|text| !text.is_empty()).unwrap_or(name)
}

fn set_mirror(path: &Path, entry: &mut Table, mirrored: &Mirrored<'_>) -> Result<(), Error> {
    let location = format!(
        "{}/{}",
        mirrored.authority,
        in_path(upstream(entry, mirrored.name))
    );
    // Both together are an error to containers/image.
    let digests_already = entry.get("mirror-by-digest-only").and_then(Item::as_bool) == Some(true);
    let is_it = |table: &dyn TableLike| table.get("location").and_then(Item::as_str) == Some(&location);
    let fill = |table: &mut dyn TableLike| {
        set_unless_same(table, "location", location.as_str().into());
        match mirrored.insecure {
            true => set_unless_same(table, "insecure", true.into()),
            false => drop(table.remove("insecure")),
        }
        match mirrored.digest_only && !digests_already {
            true => set_unless_same(table, "pull-from-mirror", "digest-only".into()),
            false => drop(table.remove("pull-from-mirror")),
        }
    };
    // Below an entry of ours the comment stands already.
    let own = entry.decor().prefix().and_then(|prefix| prefix.as_str());
    let comment = match own.is_some_and(|own| own.contains(&Runtime::Containers.comment())) {
        true => String::new(),
        false => Runtime::Containers.comment(),
    };
    let first = Entry {
        comment,
        is_it: &is_it,
        fill: &fill,
    };
    first.put_first(path, "registry.mirror", entry, "mirror")
}

fn set_unless_same(table: &mut dyn TableLike, key: &str, value: Value) {
    let same = match (table.get(key).and_then(Item::as_value), &value) {
        (Some(Value::String(held)), Value::String(wanted)) => held.value() == wanted.value(),
        (Some(Value::Boolean(held)), Value::Boolean(wanted)) => held.value() == wanted.value(),
        _ => false,
    };
    if !same {
        set(table, key, value);
    }
}
