//! `darter snapshotter` in a `config.toml`: where containerd finds it, and that CRI takes it.
//!
//! `ctr` and nerdctl are told by a flag which snapshotter to take; CRI is told here. CRI's own annotations are needed as well,
//! which containerd leaves out unless it is told: they name the image.

use std::path::Path;

use toml_edit::{Item, TableLike, Value};

use super::config::File;
use crate::Error;
use crate::document::{child, indentation, wrong_type};

/// The name by which containerd knows it.
const NAME: &str = "darter";

/// Where CRI's settings for snapshots are in each version of the format.
fn section(version: i64) -> &'static [&'static str] {
    match version {
        1 => &["plugins", "cri", "containerd"],
        2 => &["plugins", "io.containerd.grpc.v1.cri", "containerd"],
        _ => &["plugins", "io.containerd.cri.v1.images"],
    }
}

/// Tells containerd where the snapshotter listens.
pub(super) fn set_plugin(file: &mut File, socket: &str) -> Result<(), Error> {
    let (path, item) = (file.path.clone(), file.document.as_item_mut());
    let table = table(&path, item, &["proxy_plugins", NAME])?;
    put(table, "type", "snapshot".into());
    put(table, "address", socket.into());
    Ok(())
}

/// Makes CRI take it.
pub(super) fn set_cri(file: &mut File) -> Result<(), Error> {
    let (path, section) = (file.path.clone(), section(file.version));
    let table = table(&path, file.document.as_item_mut(), section)?;
    put(table, "snapshotter", NAME.into());
    put(table, "disable_snapshot_annotations", false.into());
    Ok(())
}

fn table<'t>(path: &Path, root: &'t mut Item, section: &[&str]) -> Result<&'t mut dyn TableLike, Error> {
    let wrong = || wrong_type(path, &section.join("."), "a table");
    let mut item = root;
    for key in section {
        item = child(item, key).ok_or_else(wrong)?;
    }
    item.as_table_like_mut().ok_or_else(wrong)
}

/// Sets a value; a new key stands as its neighbours do.
fn put(table: &mut dyn TableLike, key: &str, mut value: Value) {
    if let Some(old) = table.get_mut(key).and_then(Item::as_value_mut) {
        if old.to_string().trim() != value.to_string().trim() {
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        return;
    }
    let first = table.iter().next().map(|(first, _)| first.to_owned());
    let indent = first.and_then(|first| table.key(&first).and_then(indentation));
    table.insert(key, Item::Value(value));
    if let (Some(indent), Some(mut key)) = (indent, table.key_mut(key)) {
        key.leaf_decor_mut().set_prefix(indent);
    }
}
