//! One `hosts.toml`: the proxy as its first host, everything else as it was.
//!
//! containerd orders hosts by where their first `[host."…"]` header stands in the file. Hosts written in any other
//! form (inline, dotted, as values of `[host]`) have no place in that order: containerd 2 skips them. Such a file
//! is refused rather than half understood.
//!
//! containerd, Docker's containerd image store and nerdctl read this format. `place` knows where the files are.

use std::path::Path;
use std::time::Duration;
use toml_edit::{Array, Item, Table, Value};

use crate::containerd::Capabilities;
use crate::{Error, Mirror, Runtime, document};

pub(crate) mod place;

/// The proxy's entry.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    mirror: Mirror,
    capabilities: &'static [&'static str],
    /// In Go's notation.
    dial_timeout: String,
    /// Whose file it is, for the comment.
    runtime: Runtime,
}

impl Host {
    pub(crate) fn new(
        runtime: Runtime,
        mirror: &Mirror,
        capabilities: Capabilities,
        dial_timeout: Duration,
    ) -> Result<Self, Error> {
        let capabilities: &[&str] = match capabilities {
            Capabilities::PullAndResolve => &["pull", "resolve"],
            Capabilities::Pull => &["pull"],
        };
        let dial_timeout = go_duration(dial_timeout).ok_or(Error::ZeroDialTimeout)?;
        Ok(Self {
            mirror: mirror.clone(),
            capabilities,
            dial_timeout,
            runtime,
        })
    }

    fn capabilities(&self) -> Array {
        self.capabilities.iter().copied().collect()
    }

    /// Gives `table` this entry's values; leaves the values alone that are right already, and all other keys.
    fn fill(&self, table: &mut Table) {
        let held = table.get("capabilities").and_then(Item::as_array);
        let same = held.is_some_and(|held| {
            held.len() == self.capabilities.len()
                && self
                    .capabilities
                    .iter()
                    .all(|wanted| held.iter().any(|value| value.as_str() == Some(wanted)))
        });
        if !same {
            document::set(table, "capabilities", Value::Array(self.capabilities()));
        }
        if table.get("dial_timeout").and_then(Item::as_str) != Some(&self.dial_timeout) {
            document::set(table, "dial_timeout", Value::from(self.dial_timeout.as_str()));
        }
    }
}

fn go_duration(duration: Duration) -> Option<String> {
    match duration.as_millis() {
        0 => None,
        millis if millis % 1000 == 0 => Some(format!("{}s", millis / 1000)),
        millis => Some(format!("{millis}ms")),
    }
}

/// A file for a registry that has none. `names` are the files of its directory: containerd takes certificates by
/// their names (Docker's pattern) only as long as there is no `hosts.toml`, so they are named in it.
pub(crate) fn create(origin: Option<&str>, names: &[String], host: &Host) -> String {
    let mut document = toml_edit::DocumentMut::new();
    if let Some(origin) = origin {
        document.insert("server", Item::Value(origin.into()));
    }
    let ca: Array = names
        .iter()
        .filter(|name| name.ends_with(".crt"))
        .map(String::as_str)
        .collect();
    if !ca.is_empty() {
        document.insert("ca", Item::Value(Value::Array(ca)));
    }
    let client: Array = names.iter().filter_map(|name| client_pair(name, names)).collect();
    if !client.is_empty() {
        document.insert("client", Item::Value(Value::Array(client)));
    }
    insert_first(document.as_table_mut(), host);
    document.to_string()
}

/// Further mirrors behind the proxy's entry of a file that [`create`] made.
pub(crate) fn followers(mirrors: &[String]) -> String {
    let one = |mirror: &String| {
        let key = Value::from(mirror.trim_end_matches('/'));
        format!("\n[host.{key}]\ncapabilities = [\"pull\", \"resolve\"]\n")
    };
    mirrors.iter().map(one).collect()
}

/// A client certificate: alone if its key is in the same file, else with its key.
fn client_pair(name: &str, names: &[String]) -> Option<Value> {
    let key = format!("{}.key", name.strip_suffix(".cert")?);
    Some(match names.contains(&key) {
        true => Value::Array([name, &key].into_iter().collect()),
        false => Value::from(name),
    })
}

/// `bytes` with the proxy as first host; the very same text if it is that already.
pub(crate) fn merge(path: &Path, bytes: &[u8], host: &Host) -> Result<String, Error> {
    let mut document = document::parse(path, bytes)?;
    let root = document.as_table_mut();
    let keys = host_keys(path, root)?;
    let ours: Vec<&String> = keys.iter().filter(|key| host.mirror.is_host_key(key)).collect();
    match ours.as_slice() {
        [] => insert_first(root, host),
        [first, spare @ ..] => {
            // Two spellings of one address: containerd would ask it twice.
            for key in spare {
                remove_host(root, key);
            }
            if !is_first(root, first) {
                move_first(root, first);
            }
            if let Some(table) = hosts_mut(root)
                .and_then(|hosts| hosts.get_mut(first))
                .and_then(Item::as_table_mut)
            {
                table.set_implicit(false);
                host.fill(table);
            }
        }
    }
    Ok(document.to_string())
}

/// The body of a fuzz target: any bytes as somebody's `hosts.toml`.
///
/// # Panics
/// If the proxy is not the first host of what is written, or a second merge changes it again.
pub fn fuzz_hosts(data: &[u8]) {
    let path = Path::new("/hosts.toml");
    let timeout = Duration::from_millis(200);
    let Ok(host) = Host::new(
        Runtime::Containerd,
        &Mirror::default(),
        Capabilities::default(),
        timeout,
    ) else {
        return;
    };
    let Ok(once) = merge(path, data, &host) else {
        return;
    };
    let shown = String::from_utf8_lossy(data);
    match merge(path, once.as_bytes(), &host) {
        Ok(twice) => assert_eq!(twice, once, "of {shown:?}"),
        Err(error) => panic!("{shown:?} became {once:?}, which is refused: {error}"),
    }
    if let Ok(mut document) = document::parse(path, once.as_bytes()) {
        let root = document.as_table_mut();
        let keys = host_keys(path, root).unwrap_or_default();
        let first = keys.iter().find(|key| is_first(root, key));
        assert!(
            first.is_some_and(|key| host.mirror.is_host_key(key)),
            "{shown:?} became {once:?}"
        );
    }
}

/// The hosts of the file, each in the form that containerd orders.
fn host_keys(path: &Path, root: &Table) -> Result<Vec<String>, Error> {
    let wrong = |key: &str| Error::WrongType {
        path: path.to_path_buf(),
        key: key.to_owned(),
        expected: "written as tables with a header each, like [host.\"https://mirror.example\"]",
    };
    let hosts = match root.get("host") {
        None => return Ok(Vec::new()),
        Some(Item::Table(hosts)) if !hosts.is_dotted() => hosts,
        Some(_) => return Err(wrong("host")),
    };
    let mut keys = Vec::new();
    for (key, item) in hosts {
        match item {
            Item::Table(table) if !table.is_dotted() => keys.push(key.to_owned()),
            _ => return Err(wrong(&format!("host.\"{key}\""))),
        }
    }
    Ok(keys)
}

fn hosts_mut(root: &mut Table) -> Option<&mut Table> {
    root.get_mut("host").and_then(Item::as_table_mut)
}

fn remove_host(root: &mut Table, key: &str) {
    if let Some(hosts) = hosts_mut(root) {
        hosts.remove(key);
    }
}

/// Where the first header of `item` stands among the headers of the document.
fn position(item: &Item) -> Option<isize> {
    let nested = |table: &Table| table.iter().filter_map(|(_, item)| position(item)).min();
    match item {
        Item::Table(table) => {
            let own = table
                .position()
                .filter(|_| !table.is_implicit() && !table.is_dotted());
            [own, nested(table)].into_iter().flatten().min()
        }
        Item::ArrayOfTables(tables) => tables
            .iter()
            .filter_map(|table| [table.position(), nested(table)].into_iter().flatten().min())
            .min(),
        _ => None,
    }
}

/// Where the first of all hosts stands.
fn first_position(root: &Table) -> Option<isize> {
    let hosts = root.get("host").and_then(Item::as_table)?;
    hosts.iter().filter_map(|(_, item)| position(item)).min()
}

fn is_first(root: &Table, key: &str) -> bool {
    let ours = root
        .get("host")
        .and_then(Item::as_table)
        .and_then(|hosts| hosts.get(key))
        .and_then(position);
    ours.is_some() && ours == first_position(root)
}

/// Gives every table of `table` from `from` on a place that is `by` later.
fn shift(table: &mut Table, from: isize, by: isize) {
    if let Some(place) = table.position().filter(|place| *place >= from) {
        table.set_position(Some(place + by));
    }
    for (_, item) in table.iter_mut() {
        match item {
            Item::Table(table) => shift(table, from, by),
            Item::ArrayOfTables(tables) => tables.iter_mut().for_each(|table| shift(table, from, by)),
            _ => {}
        }
    }
}

/// Numbers the tables of `table` from `next` on, in their order; answers the next free number.
fn renumber(table: &mut Table, next: isize) -> isize {
    table.set_position(Some(next));
    let mut next = next + 1;
    for (_, item) in table.iter_mut() {
        match item {
            Item::Table(table) => next = renumber(table, next),
            Item::ArrayOfTables(tables) => {
                next = tables.iter_mut().fold(next, |next, table| renumber(table, next))
            }
            _ => {}
        }
    }
    next
}

fn insert_first(root: &mut Table, host: &Host) {
    let mut table = Table::new();
    // At the very start of a file there is nothing to keep a blank line from.
    let leads =
        !root.iter().any(|(_, item)| item.is_value()) && first_position(root).is_none_or(|place| place <= 1);
    table.decor_mut().set_prefix(format!(
        "{}{}",
        if leads { "" } else { "\n" },
        host.runtime.comment()
    ));
    host.fill(&mut table);
    part_from_next(root);
    put_first(root, host.mirror.as_str(), table);
}

/// A blank line before the host that was first until now.
fn part_from_next(root: &mut Table) {
    let place = first_position(root);
    let tables = hosts_mut(root).into_iter().flat_map(|hosts| hosts.iter_mut());
    for table in tables.filter_map(|(_, item)| item.as_table_mut()) {
        if table.position() == place && place.is_some() {
            let prefix = table
                .decor()
                .prefix()
                .and_then(|prefix| prefix.as_str())
                .unwrap_or_default()
                .to_owned();
            if !prefix.starts_with(['\n', '\r']) {
                table.decor_mut().set_prefix(format!("\n{prefix}"));
            }
        }
    }
}

fn move_first(root: &mut Table, key: &str) {
    if let Some(Item::Table(table)) = hosts_mut(root).and_then(|hosts| hosts.remove(key)) {
        put_first(root, key, table);
    }
}

/// Puts `table` before all other hosts, or behind everything if there are none.
fn put_first(root: &mut Table, key: &str, mut table: Table) {
    let end = renumber(&mut table.clone(), 0);
    let place = first_position(root).unwrap_or(isize::MAX / 2);
    shift(root, place, end);
    renumber(&mut table, place);
    let hosts = root.entry("host").or_insert_with(|| {
        let mut hosts = Table::new();
        hosts.set_implicit(true);
        Item::Table(hosts)
    });
    if let Some(hosts) = hosts.as_table_mut() {
        hosts.insert(key, Item::Table(table));
    }
}

#[cfg(test)]
mod tests;
