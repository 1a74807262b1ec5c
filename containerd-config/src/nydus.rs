//! nydus-snapshotter: its nydusd reads blobs through the node's proxy, as a proxy of HTTP or as a mirror of registries.
//!
//! As a proxy, nydusd's own file (JSON) gets the forward proxy's address; it then asks every registry through it. As a mirror,
//! each registry gets a `hosts.toml` with a header that names it, in the folder that the snapshotter's file names.

use std::path::{Path, PathBuf};

use toml_edit::{Array, Item, TableLike, Value};

use crate::document::{self, child, set, wrong_type};
use crate::plan::Change;
use crate::{Error, Mirror, Note, Plan, Registry, Runtime, backup, rooted};

mod member;

/// The snapshotter's own file.
const CONFIG: &str = "/etc/nydus/config.toml";
/// nydusd's file, where the snapshotter's names none.
const DAEMON_CONFIG: &str = "/etc/nydus/nydusd-config.fusedev.json";
/// The folder of mirrors, where the snapshotter's file names none.
const MIRRORS: &str = "/etc/nydus/certs.d";
/// The header that names the registry to the proxy; nydusd knows it by this name.
const REGISTRY_HEADER: &str = "X-Dragonfly-Registry";
/// Where the proxy's address stands in nydusd's file.
const PROXY: [&str; 4] = ["device", "backend", "config", "proxy"];
/// Seconds between two looks at whether the proxy is there.
const CHECK_SECONDS: u32 = 5;

/// How nydusd reaches the proxy.
#[derive(Debug, Clone)]
pub enum Through {
    /// As its proxy of HTTP, at this address of the forward proxy.
    Proxy(Mirror),
    /// As a mirror of these registries.
    Mirror(Vec<Registry>),
}

/// What `darter setup nydus-snapshotter` was asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node's file system: `/`, or where it is mounted.
    pub root: PathBuf,
    /// The snapshotter's `config.toml` instead of the usual one; as seen from inside the root.
    pub config: Option<PathBuf>,
    /// The address of the mirror, which also tells whether the proxy is there.
    pub mirror: Mirror,
    /// How nydusd reaches the proxy.
    pub through: Through,
}

impl Options {
    /// The defaults: the forward proxy at `http://127.0.0.1:4003`, the mirror at `http://127.0.0.1:4001`.
    ///
    /// # Errors
    /// None.
    pub fn new(root: impl Into<PathBuf>) -> Result<Self, Error> {
        Ok(Self {
            root: root.into(),
            config: None,
            mirror: Mirror::default(),
            through: Through::Proxy("http://127.0.0.1:4003".parse()?),
        })
    }
}

/// What has to change so that nydusd reads through the proxy. Reads only.
///
/// # Errors
/// Any [`Error`] about what is there now: unreadable, invalid, or of another type than the snapshotter expects.
pub fn plan(options: &Options) -> Result<Plan, Error> {
    let mut plan = Plan::new(&options.root, Runtime::Nydus);
    let path = options.config.clone().unwrap_or_else(|| PathBuf::from(CONFIG));
    let before = rooted::read(&options.root, &path)?;
    match &options.through {
        Through::Proxy(proxy) => {
            let named = text(&path, before.as_deref(), &["daemon", "nydusd_config"])?;
            let file = PathBuf::from(named.as_deref().unwrap_or(DAEMON_CONFIG));
            plan_proxy(&mut plan, &file, proxy, &options.mirror)?;
            plan.note(Note::ForwardNeeded {
                url: proxy.to_string(),
            });
        }
        Through::Mirror(registries) => {
            let keys = ["remote", "mirrors_config", "dir"];
            let named = text(&path, before.as_deref(), &keys)?.filter(|dir| !dir.is_empty());
            if named.is_none() {
                plan_folder(&mut plan, &path, before)?;
            }
            let folder = PathBuf::from(named.as_deref().unwrap_or(MIRRORS));
            for registry in registries {
                plan_mirror(&mut plan, &folder, registry, &options.mirror)?;
            }
        }
    }
    Ok(plan)
}

/// What has to change to take back every [`plan`] that was applied with the same `state_dir`. Reads only.
///
/// # Errors
/// [`Error::BadRecord`] if the record is damaged, and errors of reading.
pub fn undo(root: &Path, state_dir: &Path) -> Result<Plan, Error> {
    backup::undo(root, state_dir, Runtime::Nydus)
}

/// A text of the snapshotter's file.
fn text(path: &Path, bytes: Option<&[u8]>, keys: &[&str]) -> Result<Option<String>, Error> {
    let document = document::parse(path, bytes.unwrap_or_default())?;
    let mut item = document.as_item();
    for key in keys {
        match item.get(key) {
            Some(next) => item = next,
            None => return Ok(None),
        }
    }
    let text = item.as_str().map(str::to_owned);
    text.ok_or_else(|| wrong_type(path, &keys.join("."), "a text"))
        .map(Some)
}

/// The proxy's address in nydusd's file. What else stands there stays; so do `fallback` and `check_interval`.
fn plan_proxy(plan: &mut Plan, path: &Path, proxy: &Mirror, mirror: &Mirror) -> Result<(), Error> {
    let before = rooted::read(&plan.root, path)?;
    let text = std::str::from_utf8(before.as_deref().unwrap_or_default()).map_err(|_| Error::NotText {
        path: path.to_path_buf(),
    })?;
    let mut after = text.to_owned();
    let ping = format!("{mirror}/v2/");
    for (key, value, always) in [
        ("check_interval", CHECK_SECONDS.into(), false),
        ("fallback", true.into(), false),
        ("ping_url", ping.as_str().into(), true),
        // Otherwise a registry with TLS is tunnelled to, which nobody can share.
        ("use_http", true.into(), true),
        ("url", proxy.as_str().into(), true),
    ] {
        let keys: Vec<_> = PROXY.iter().copied().chain([key]).collect();
        after = member::set(path, &after, &keys, &value, always)?;
    }
    change(plan, path, before, after.into_bytes(), true);
    Ok(())
}

/// The folder of mirrors in the snapshotter's file, which names none.
fn plan_folder(plan: &mut Plan, path: &Path, before: Option<Vec<u8>>) -> Result<(), Error> {
    let mut document = document::parse(path, before.as_deref().unwrap_or_default())?;
    let wrong = || wrong_type(path, "remote.mirrors_config", "a table");
    let remote = child(document.as_item_mut(), "remote").ok_or_else(wrong)?;
    let mirrors = child(remote, "mirrors_config").ok_or_else(wrong)?;
    let mirrors = mirrors.as_table_like_mut().ok_or_else(wrong)?;
    set(mirrors, "dir", MIRRORS.into());
    let after = document.to_string().trim_start_matches('\n').as_bytes().to_vec();
    change(plan, path, before, after, true);
    Ok(())
}

/// The mirror in a registry's `hosts.toml`.
fn plan_mirror(plan: &mut Plan, folder: &Path, registry: &Registry, mirror: &Mirror) -> Result<(), Error> {
    let name = registry.name()?;
    // The snapshotter calls Docker Hub by its other name.
    let name = if registry.is_docker_hub() {
        "index.docker.io"
    } else {
        name
    };
    let path = folder.join(name).join("hosts.toml");
    let before = rooted::read(&plan.root, &path)?;
    let mut document = document::parse(&path, before.as_deref().unwrap_or_default())?;
    let key = format!("host.\"{mirror}\"");
    let wrong = || wrong_type(&path, &key, "a table");
    let hosts = child(document.as_item_mut(), "host").ok_or_else(wrong)?;
    let host = child(hosts, mirror.as_str()).ok_or_else(wrong)?;
    let table = host.as_table_like_mut().ok_or_else(wrong)?;
    // Otherwise nydusd asks the registry itself until that has given it a token, and one without tokens for ever.
    put(table, "auth_through", true.into());
    put(table, "ping_url", format!("{mirror}/v2/").into());
    let header = child(host, "header").ok_or_else(wrong)?;
    let header = header.as_table_like_mut().ok_or_else(wrong)?;
    put(
        header,
        REGISTRY_HEADER,
        Array::from_iter([format!("https://{name}")]).into(),
    );
    let after = document.to_string().trim_start_matches('\n').as_bytes().to_vec();
    change(plan, &path, before, after, false);
    Ok(())
}

/// Sets a value that is not there already.
fn put(table: &mut dyn TableLike, key: &str, value: Value) {
    let same = |item: &Item| item.to_string().trim() == value.to_string().trim();
    if !table.get(key).is_some_and(same) {
        set(table, key, value);
    }
}

fn change(plan: &mut Plan, path: &Path, before: Option<Vec<u8>>, after: Vec<u8>, restart: bool) {
    if before.as_ref() == Some(&after) {
        return;
    }
    if restart {
        plan.note(Note::RestartNeeded {
            path: path.to_path_buf(),
            runtime: Runtime::Nydus,
        });
    }
    plan.change(Change {
        path: path.to_path_buf(),
        before,
        after: Some(after),
        restart,
        private: false,
    });
}
