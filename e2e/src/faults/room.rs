//! The store's disk is full.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::Method;
use serde_json::json;

use super::disk::{SIZE, announced_pieces};
use super::scene::{MIB, Plan, Scene, ended, middle};
use super::{Effort, Report, Tally};
use crate::clock::until;
use crate::command::{command, run};

/// Of a disk that others fill.
const EXT4_BYTES: u64 = 64 * MIB;

/// A file system that becomes full.
#[derive(Debug, Clone, Copy)]
enum Room {
    /// In memory, with these options.
    Memory(&'static str),
    /// ext4 in a file that is mounted by a loop device, filled by somebody else while the proxy writes.
    Ext4,
}

/// Bar 55: the disk is full, of bytes or of files. Pulls go past it; when there is room again it is used.
pub(super) fn full(effort: Effort, report: &mut Report) -> Result<()> {
    for (name, room) in [
        ("55 disk full", Room::Memory("size=4m")),
        (
            "55 disk has no room for another file",
            Room::Memory("size=512m,nr_inodes=24"),
        ),
        ("55 ext4 filled by others while writing", Room::Ext4),
    ] {
        let mut tally = Tally::new(name);
        for _ in 0..effort.times(1, 20) {
            full_once(&mut tally, room, effort)?;
        }
        tally.added_in_bounds();
        report.add(&tally);
    }
    Ok(())
}

fn full_once(tally: &mut Tally, room: Room, effort: Effort) -> Result<()> {
    let mut scene = Scene::prepare(Plan {
        nodes: 1,
        ..Plan::default()
    })?;
    let node = scene.node(0)?;
    let store = node.settings.store.clone();
    fs::create_dir_all(&store)?;
    match room {
        Room::Memory(options) => mount(&store, options)?,
        Room::Ext4 => mount_ext4(&store)?,
    }
    node.settings.more = json!({ "store": { "freeFloor": "1MiB" } });
    scene.start_all()?;
    let plain = scene.plain(&[0], SIZE)?;
    let stranger = store.join("of-somebody-else");
    if matches!(room, Room::Ext4) {
        filled_in_the_middle(&mut scene, tally, plain, &stranger)?;
    }
    for _ in 0..effort.times(12, 30) {
        let blob = scene.blob(SIZE);
        tally.pull(&scene.pull(0, &blob)?, plain);
        let (_, wrong) = announced_pieces(scene.node(0)?, &blob)?;
        tally.must(wrong == 0, || format!("{wrong} wrong bytes were announced"));
    }
    match room {
        Room::Memory(_) => mount(&store, "remount,size=512m,nr_inodes=100000")?,
        Room::Ext4 => fs::remove_file(&stranger)?,
    }
    let kept = room_is_used(&mut scene, tally, plain);
    tally.must(kept.is_ok(), || format!("{kept:?}"));
    scene.end(tally.is_good());
    Ok(())
}

/// The floor that the proxy leaves free is taken from it, too: its writes are refused by the file system.
fn filled_in_the_middle(scene: &mut Scene, tally: &mut Tally, plain: Duration, by: &Path) -> Result<()> {
    let blob = scene.blob(SIZE);
    let watches = scene.begin_on(&[0], &blob)?;
    middle(&watches, 1)?;
    fill(by)?;
    for end in ended(&watches)? {
        tally.pull(&end, plain);
    }
    let (_, wrong) = announced_pieces(scene.node(0)?, &blob)?;
    tally.must(wrong == 0, || format!("{wrong} wrong bytes were announced"));
    Ok(())
}

fn room_is_used(scene: &mut Scene, tally: &mut Tally, plain: Duration) -> Result<()> {
    let origin = scene.registry.origin.clone();
    until("room to be used again", Duration::from_secs(10), || {
        let blob = scene.blob(SIZE);
        scene.pull(0, &blob)?;
        let before = origin.requests_for(&Method::GET, &blob.digest);
        tally.pull(&scene.pull(0, &blob)?, plain);
        let again = origin.requests_for(&Method::GET, &blob.digest) > before;
        Ok((!again).then_some(()))
    })
}

fn mount(store: &Path, options: &str) -> Result<()> {
    let options = format!("{options},mode=0700");
    run(command(["mount", "-t", "tmpfs", "-o", &options, "store"]).arg(store))
}

fn mount_ext4(store: &Path) -> Result<()> {
    let image = store.with_extension("ext4");
    fs::File::create(&image)?.set_len(EXT4_BYTES)?;
    // Nothing is kept for root, as which this runs.
    run(command(["mkfs.ext4", "-q", "-m", "0"]).arg(&image))?;
    run(command(["mount", "-o", "loop"]).arg(&image).arg(store))?;
    Ok(fs::set_permissions(store, fs::Permissions::from_mode(0o700))?)
}

/// Takes all the room that there is.
fn fill(file: &Path) -> Result<()> {
    let mut file = fs::File::create(file)?;
    let zeros = vec![0; 1 << 20];
    loop {
        match file.write_all(&zeros) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error).context("cannot fill a disk"),
        }
    }
}
