//! The store's disk rots, is full, fails, is slow, or loses its process in the middle of a write.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::degradation::held;
use super::node::Node;
use super::scene::{Blob, MIB, Plan, Scene, ended};
use super::{Effort, Report, Tally, part_of, spread};
use crate::clock::{now, pause, until};
use crate::command::{command, run};

pub(super) const SIZE: u64 = 8 * MIB;
/// Of bar 56.
const ERRORS_SIZE: u64 = 2 * MIB;
const PIECE: u64 = 256 * 1024;
const NOISE: Duration = Duration::from_secs(1);
const READY_MAX: Duration = Duration::from_secs(5);

fn one_node() -> Result<Scene> {
    Scene::start(Plan {
        nodes: 1,
        ..Plan::default()
    })
}

/// The files of a content in a node's store.
fn files(node: &Node, blob: &Blob) -> Result<(PathBuf, PathBuf)> {
    let hex = blob.digest.trim_start_matches("sha256:");
    let prefix = hex.get(..2).context("a digest has digits")?;
    let folder = node
        .settings
        .store
        .join("tasks")
        .join(prefix)
        .join(format!("sha256-{hex}"));
    ensure!(folder.is_dir(), "{} is not there", folder.display());
    Ok((folder.join("data"), folder.join("index")))
}

fn write_at(path: &Path, at: u64, bytes: &[u8]) -> Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    Ok(file.write_all_at(bytes, at)?)
}

/// Bar 5: a byte changes on the disk while the proxy is stopped. One piece is fetched again.
pub(super) fn bit_rot(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("5 a byte rots in the store");
    let mut scene = one_node()?;
    let plain = scene.plain(&[0], SIZE)?;
    for round in 0..effort.times(5, 200) {
        let blob = scene.blob(SIZE);
        held(&scene, 0, &blob)?;
        let node = scene.node(0)?;
        node.stop()?;
        let at = part_of(SIZE, round + 1);
        let wrong = blob
            .content
            .read(at..at + 1)
            .iter()
            .map(|byte| !byte)
            .collect::<Vec<_>>();
        write_at(&files(node, &blob)?.0, at, &wrong)?;
        node.start()?;
        let before = scene.registry.origin.bytes_sent_for(&blob.digest);
        tally.pull(&scene.pull(0, &blob)?, plain);
        // What a request had on its way when the piece was there was sent, too.
        let sent = scene.registry.origin.bytes_sent_for(&blob.digest) - before;
        tally.must(
            sent >= PIECE.min(SIZE - at / PIECE * PIECE) && sent <= PIECE,
            || format!("{sent} bytes were fetched for a piece of {PIECE}, byte {at}"),
        );
    }
    tally.added_in_bounds();
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}

/// Bar 64: killed while it writes. What it tells others after its start is right, and so is what it serves.
pub(super) fn killed_while_writing(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("64 kill -9 while writing");
    let mut scene = one_node()?;
    let plain = scene.plain(&[0], SIZE)?;
    let mut announced = 0;
    for round in 0..effort.times(15, 1000) {
        let blob = scene.blob(SIZE);
        let watches = scene.begin_on(&[0], &blob)?;
        until("the pull to begin", READY_MAX, || {
            Ok((watches.iter().any(|watch| watch.progress().bytes > 0)).then_some(()))
        })?;
        pause(plain.mul_f64(spread(round)));
        let node = scene.node(0)?;
        node.kill()?;
        let start = now();
        node.start()?;
        let took = start.elapsed();
        tally.must(took <= READY_MAX, || format!("ready after {took:?}"));
        let (pieces, wrong) = announced_pieces(node, &blob)?;
        announced += pieces;
        tally.wrong(wrong);
        for end in ended(&watches)? {
            tally.pull(&end, plain);
        }
        tally.pull(&scene.pull(0, &blob)?, plain);
    }
    tally.must(announced > 0, || "no piece outlived its process".to_owned());
    let strange = strangers(&scene.node(0)?.settings.store.join("trash"))?;
    tally.must(strange == 0, || format!("{strange} files wait to be deleted"));
    tally.added_in_bounds();
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}

/// Reads all that the node gives to others of this content: pieces, and bytes that are wrong.
pub(super) fn announced_pieces(node: &Node, blob: &Blob) -> Result<(u64, u64)> {
    let (mut pieces, mut wrong) = (0, 0);
    for first in (0..blob.content.len()).step_by(usize::try_from(PIECE)?) {
        let range = first..(first + PIECE).min(blob.content.len());
        let answer = node.get_pieces(&blob.digest, range.clone())?;
        if answer.status != 206 {
            continue;
        }
        pieces += 1;
        let truth = blob.content.read(range);
        wrong += answer
            .body
            .iter()
            .zip(&truth)
            .filter(|(one, other)| one != other)
            .count() as u64;
    }
    Ok((pieces, wrong))
}

fn strangers(folder: &Path) -> Result<usize> {
    Ok(if folder.exists() {
        fs::read_dir(folder)?.count()
    } else {
        0
    })
}

/// Bar 56: the nth write, or every one from the nth on, and each other call of the store, fails by an I/O error.
pub(super) fn errors(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("56 I/O errors of the disk");
    let mut scene = Scene::prepare(Plan {
        nodes: 1,
        ..Plan::default()
    })?;
    let plain = scene.plain(&[0], ERRORS_SIZE)?;
    let calls = [
        ("pwrite64", "EIO"),
        ("pwrite64", "ENOSPC"),
        ("fsync", "EIO"),
        ("fdatasync", "EIO"),
        ("fallocate", "EIO"),
        ("fallocate", "ENOSPC"),
        ("sendfile", "EIO"),
    ];
    let mut injected: BTreeMap<&str, usize> = BTreeMap::new();
    for round in 0..effort.times(2, 40) {
        for (call, error) in calls {
            for ever in ["", "+"] {
                let when = 1 + round * 2;
                let inject = format!("inject={call}:error={error}:when={when}{ever}");
                let seen = fails_so(&mut scene, &mut tally, plain, call, &inject)?;
                *injected.entry(call).or_default() += seen;
            }
        }
    }
    let counts: Vec<String> = injected
        .iter()
        .map(|(call, times)| format!("{times} x {call}"))
        .collect();
    tally.note(counts.join(", "));
    let injected: usize = injected.values().sum();
    tally.must(injected > 0, || "no call of the store ever failed".to_owned());
    tally.added_in_bounds();
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}

/// Two pulls of one blob while a call fails so; how often it did.
fn fails_so(
    scene: &mut Scene,
    tally: &mut Tally,
    plain: Duration,
    call: &str,
    inject: &str,
) -> Result<usize> {
    traced(scene.node(0)?, &format!("trace={call}"), inject)?;
    let blob = scene.blob(ERRORS_SIZE);
    tally.pull(&scene.pull(0, &blob)?, plain);
    let node = scene.node(0)?;
    // An answer that cannot be sent breaks off, which is not what is asked here.
    let (_, wrong) = announced_pieces(node, &blob).unwrap_or_default();
    tally.must(wrong == 0, || {
        format!("{wrong} wrong bytes were announced after {inject}")
    });
    tally.pull(&scene.pull(0, &blob)?, plain);
    let node = scene.node(0)?;
    let seen = injections(node)?;
    untrace(node)?;
    Ok(seen)
}

/// Where strace writes what it sees of a node.
fn seen(node: &Node) -> PathBuf {
    node.settings.store.with_extension("strace")
}

/// Calls that were made to fail.
fn injections(node: &Node) -> Result<usize> {
    let text = fs::read_to_string(seen(node))?;
    Ok(text.matches("(INJECTED)").count())
}

/// Starts the node with an empty store under strace.
fn traced(node: &mut Node, trace: &str, inject: &str) -> Result<()> {
    node.empty_store()?;
    let file = seen(node).display().to_string();
    let words = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-o",
        &file,
        "-e",
        trace,
        "-e",
        inject,
    ];
    node.settings.wrapper = words.map(str::to_owned).to_vec();
    // Reading an empty store needs none of the calls that fail.
    node.start()
}

/// Ends what strace runs, and with it strace.
fn untrace(node: &mut Node) -> Result<()> {
    let tracer = node.darter()?.process().id();
    let children = fs::read_to_string(format!("/proc/{tracer}/task/{tracer}/children"))?;
    for child in children.split_whitespace() {
        // It may have ended meanwhile, which is what is wanted.
        let _ = run(&mut command(["kill", "-9", child]));
    }
    node.darter = None;
    node.settings.wrapper.clear();
    Ok(())
}

/// Bar 67: each write to the disk takes so long that it gets a fraction of what the registry sends.
pub(super) fn slow(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("67 disk of 1 MiB/s");
    let mut scene = Scene::prepare(Plan {
        nodes: 1,
        mbit: Some(100),
        ..Plan::default()
    })?;
    let plain = scene.plain(&[0], SIZE)?;
    // A piece is one write of 256 KiB.
    traced(
        scene.node(0)?,
        "trace=pwrite64",
        "inject=pwrite64:delay_enter=250000",
    )?;
    for _ in 0..effort.times(2, 20) {
        let blob = scene.blob(SIZE);
        tally.pull(&scene.pull(0, &blob)?, plain);
    }
    untrace(scene.node(0)?)?;
    tally.added_at_most(plain.mul_f64(0.25) + NOISE, "80 % of the registry's speed");
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}

/// Bar 66: files are cut short, zeroed, or hold anything, when the proxy starts.
pub(super) fn damaged(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("66 damaged files at the start");
    let mut scene = one_node()?;
    let plain = scene.plain(&[0], SIZE)?;
    for round in 0..effort.times(12, 10_000) {
        let blob = scene.blob(SIZE);
        held(&scene, 0, &blob)?;
        let node = scene.node(0)?;
        node.stop()?;
        let (data, index) = files(node, &blob)?;
        let path = if round % 2 == 0 { &data } else { &index };
        damage(path, round)?;
        node.start().with_context(|| format!("damage {round}"))?;
        let (_, wrong) = announced_pieces(node, &blob)?;
        tally.wrong(wrong);
        tally.pull(&scene.pull(0, &blob)?, plain);
    }
    tally.added_in_bounds();
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}

fn damage(path: &Path, round: u64) -> Result<()> {
    let length = fs::metadata(path)?.len();
    let at = part_of(length, round + 1);
    match round / 2 % 5 {
        0 => fs::OpenOptions::new().write(true).open(path)?.set_len(at)?,
        1 => write_at(path, 0, &vec![0; usize::try_from(length)?])?,
        2 => write_at(path, at, &vec![0xa5; usize::try_from((length - at).min(4096))?])?,
        3 => fs::write(path, b"")?,
        _ => write_at(path, at / 8, &round.to_be_bytes())?,
    }
    Ok(())
}

/// Bar 66 as well: a file is cut short by somebody else while the proxy serves it. No zero that stands for a missing byte is
/// given out, and the process lives.
pub(super) fn cut_while_served(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("66 a stored file is cut short while it is served");
    let mut scene = one_node()?;
    // The last part of it is too short to be sent from the file itself.
    let size = SIZE + 1000;
    let plain = scene.plain(&[0], size)?;
    for round in 0..effort.times(6, 200) {
        let blob = scene.blob(size);
        held(&scene, 0, &blob)?;
        tally.pull(&scene.pull(0, &blob)?, plain);
        let node = scene.node(0)?;
        let at = match round % 2 {
            0 => part_of(size, round + 1),
            _ => size - 500,
        };
        let data = files(node, &blob)?.0;
        fs::OpenOptions::new().write(true).open(data)?.set_len(at)?;
        tally.pull(&scene.pull(0, &blob)?, plain);
        let node = scene.node(0)?;
        if !node.darter()?.process().is_running()? {
            tally.must(false, || {
                format!("it died of a file that was cut at {at} of {size}")
            });
            node.darter = None;
            node.start()?;
        }
    }
    tally.added_in_bounds();
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}
