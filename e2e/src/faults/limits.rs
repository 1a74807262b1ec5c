//! Sizes that nobody can mean, clients that take no end, and more of them than are served.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use darter_testkit::client::RawConnection;
use darter_testkit::origin::{Fault, Match, When};
use darter_testkit::puller::Watch;
use serde_json::json;
use tokio::task::AbortHandle;

use super::memory::{MemoryGroup, resident};
use super::node::Node;
use super::scene::{MIB, Plan, REPOSITORY, Scene, ended};
use super::{Effort, Report, Tally};
use crate::clock::{now, pause, until};

const SIZE: u64 = 2 * MIB;
const NOISE: Duration = Duration::from_secs(1);
const MIRROR: &str = "127.0.0.1:4001";
/// What an attack by size may cost for each of its connections.
const GROWTH_MAX: u64 = MIB;

/// Half of bar 4: frames between nodes, right ones and mutated ones, go through the reader. It may refuse, not panic.
pub(super) fn mutated_frames(count: u64) {
    let good = b"length 536870912\nhave 0+16 40+1\ninline 4\nabcd\nping\nhave 17+1\nend\n";
    let mut state = 4_u64;
    let mut next = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    for _ in 0..count {
        let mut frame = good.to_vec();
        let length = frame.len() as u64;
        for _ in 0..=next() % 4 {
            let at = usize::try_from(next() % length).unwrap_or(0);
            match (next() % 4, frame.get_mut(at)) {
                (0, Some(byte)) => *byte = u8::try_from(next() & 0xff).unwrap_or(0),
                (1, Some(byte)) => *byte = b"0123456789+ \n"[usize::try_from(next() % 13).unwrap_or(0)],
                (2, _) => frame.truncate(at),
                _ => frame.extend_from_within(..at.min(frame.len())),
            }
        }
        darter_proxy::peer::news::fuzz_news(&frame);
    }
}

/// Bar 38: sizes from clients, from the registry and from whoever speaks to the peer port.
pub(super) fn announced_sizes(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("38 announced sizes");
    let mut scene = Scene::prepare(Plan {
        nodes: 1,
        ..Plan::default()
    })?;
    let lying = scene.add_other()?;
    scene.node(0)?.settings.registry = lying;
    scene.start_all()?;
    let plain = scene.plain(&[0], SIZE)?;
    let warm = scene.blob(SIZE);
    super::degradation::held(&scene, 0, &warm)?;
    let digest = scene.blob(SIZE).digest;
    let blob = format!("/v2/{REPOSITORY}/blobs/{digest}?ns=registry.test");
    let pieces = format!("/v1/tasks/{digest}/pieces");
    let long = "x".repeat(1 << 20);
    let get = |target: &str, header: &str| format!("GET {target} HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n");
    let attacks: Vec<(&str, String)> = vec![
        (MIRROR, get(&blob, &format!("x: {long}"))),
        (MIRROR, get(&format!("/v2/{long}"), "x: y")),
        (MIRROR, get(&blob, "content-length: 9223372036854775808")),
        (MIRROR, get(&blob, "content-length: 99999999999999999999")),
        (MIRROR, get(&blob, "range: bytes=0-18446744073709551615")),
        (
            MIRROR,
            get(&blob, &format!("range: bytes={}", "0-1,".repeat(100_000))),
        ),
        (
            MIRROR,
            get(
                &format!("/v2/{REPOSITORY}/tags/list?n=2147483648&ns=registry.test"),
                "x: y",
            ),
        ),
        (
            "127.0.0.1:4000",
            get(&pieces, "range: bytes=0-18446744073709551615"),
        ),
        ("127.0.0.1:4000", get(&pieces, &format!("x: {long}"))),
        ("127.0.0.1:4000", "\u{0}".repeat(1 << 20)),
    ];
    for _ in 0..effort.times(3, 200) {
        for (address, bytes) in &attacks {
            let pid = scene.node(0)?.darter()?.process().id();
            let before = resident(pid)?;
            attack(&scene, address, bytes)?;
            let grown = resident(pid)?.saturating_sub(before);
            let shown: String = bytes.chars().take(60).collect();
            tally.must(grown <= GROWTH_MAX, || {
                format!("{grown} bytes more after {shown:?}")
            });
        }
        from_the_registry(&mut scene, &mut tally, plain)?;
    }
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}

/// Sends it, reads what comes, and leaves.
fn attack(scene: &Scene, address: &str, bytes: &str) -> Result<()> {
    let (address, bytes) = (address.parse()?, bytes.as_bytes().to_vec());
    let node = scene.nodes.first().context("no node")?;
    node.island.run(async move {
        let connection = RawConnection::connect(address).await;
        let Ok(connection) = connection else { return };
        let mut connection = connection.with_patience(Duration::from_secs(2));
        // It may be refused before all of it is sent.
        let _ = connection.send(&bytes).await;
        let _ = connection.read_raw(4096).await;
    })
}

/// A body of 2^63 bytes, and JSON that is a hundred thousand deep; then a pull.
fn from_the_registry(scene: &mut Scene, tally: &mut Tally, plain: Duration) -> Result<()> {
    let origin = scene.other()?.origin.clone();
    let blob = scene.blob(SIZE);
    let length = "9223372036854775808".to_owned();
    let huge = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\nabc");
    let what = Match::digest(&blob.digest).get();
    let injected = origin.inject(what, When::Always, Fault::Raw(huge.into()));
    tally.pull(&scene.pull(0, &blob)?, plain);
    origin.heal(injected);
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let deep = "[".repeat(100_000);
    let digest = origin.add_manifest(REPOSITORY, None, kind, deep);
    let target = format!("/v2/{REPOSITORY}/manifests/{digest}?ns=registry.test");
    let answer = scene.node(0)?.get(&target)?;
    tally.must(answer.status >= 500, || {
        format!("JSON without an end was answered by {}", answer.status)
    });
    let running = scene.node(0)?.darter()?.process().is_running()?;
    tally.must(running, || "the proxy died".to_owned());
    let blob = scene.blob(SIZE);
    tally.pull(&scene.pull(0, &blob)?, plain);
    Ok(())
}

/// Bar 42: five thousand connections that send a byte now and then. Pulls go on, and the connections are got rid of.
pub(super) fn slow_loris(effort: Effort, report: &mut Report) -> Result<()> {
    let mut tally = Tally::new("42 5,000 connections that never ask");
    let mut scene = Scene::start(Plan {
        nodes: 1,
        ..Plan::default()
    })?;
    let connections = effort.times(5000, 5000);
    let plain = scene.plain(&[0], SIZE)?;
    let pid = scene.node(0)?.darter()?.process().id();
    let base = descriptors(pid)?;
    let node = scene.node(0)?;
    let lorises: Vec<_> = (0..connections)
        .map(|_| {
            node.island.spawn(async {
                if let Ok(mut one) = RawConnection::connect(([127, 0, 0, 1], 4001).into()).await {
                    for byte in b"GET /v2/ HTTP/1.1\r\nhost: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" {
                        if one.send(&[*byte]).await.is_err() {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                }
            })
        })
        .collect();
    until("connections to fill up", Duration::from_secs(60), || {
        Ok((descriptors(pid)? > base + 1000).then_some(()))
    })?;
    for _ in 0..effort.times(10, 200) {
        let blob = scene.blob(SIZE);
        tally.pull(&scene.pull(0, &blob)?, plain);
    }
    let freed = until("connections to be got rid of", Duration::from_secs(45), || {
        Ok((descriptors(pid)? <= base + 50).then_some(()))
    });
    tally.must(freed.is_ok(), || format!("{freed:?}"));
    lorises.iter().for_each(tokio::task::AbortHandle::abort);
    tally.added_in_bounds();
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}

fn descriptors(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// A client that reads 16 KiB and pauses, until it is dropped.
struct SlowReader {
    bytes: Arc<AtomicU64>,
    task: AbortHandle,
}

impl SlowReader {
    fn start(node: &Node, target: &str) -> Self {
        let bytes = Arc::new(AtomicU64::new(0));
        let (read, target) = (Arc::clone(&bytes), target.to_owned());
        let task = node.island.spawn(async move {
            let Ok(mut one) = RawConnection::connect(([127, 0, 0, 1], 4001).into()).await else {
                return;
            };
            let _ = one.request("GET", "x", &target, &[]).await;
            while let Ok((part, None)) = one.read_raw(16 * 1024).await {
                read.fetch_add(part.len() as u64, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Self { bytes, task }
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// It has something and its connection lives.
    fn reads(&self) -> bool {
        !self.task.is_finished() && self.bytes() > 0
    }
}

impl Drop for SlowReader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Bar 44: two hundred clients read a large blob slowly, under a limit of memory.
pub(super) fn slow_readers(effort: Effort, report: &mut Report) -> Result<()> {
    const READERS: usize = 200;
    const LIMIT: u64 = 256 * MIB;
    let mut tally = Tally::new("44 200 slow readers of 1 GiB");
    let mut scene = Scene::start(Plan {
        nodes: 1,
        ..Plan::default()
    })?;
    let group = MemoryGroup::create(LIMIT)?;
    let pid = scene.node(0)?.darter()?.process().id();
    group.take(pid)?;
    let plain = scene.plain(&[0], SIZE)?;
    let blob = scene.blob(effort.times(256, 1024) * MIB);
    let target = format!("/v2/{REPOSITORY}/blobs/{}?ns=registry.test", blob.digest);
    let node = scene.node(0)?;
    let readers: Vec<_> = (0..READERS).map(|_| SlowReader::start(node, &target)).collect();
    let mut peak = 0;
    for _ in 0..effort.times(5, 60) {
        let other = scene.blob(SIZE);
        tally.pull(&scene.pull(0, &other)?, plain);
        peak = peak.max(resident(pid)?);
        pause(Duration::from_millis(500));
    }
    tally.must(peak <= LIMIT, || format!("it took {} MiB", peak / MIB));
    let kills = group.kills()?;
    tally.must(kills == 0, || format!("the kernel killed {kills} times"));
    let alive = readers.iter().filter(|reader| reader.reads()).count();
    tally.must(alive == READERS, || format!("{alive} of {READERS} still read"));
    // The store takes what they do not yet: once, however many they are.
    let sent = scene.registry.origin.bytes_sent_for(&blob.digest);
    let size = blob.content.len();
    tally.must(sent * 100 <= size * 105, || {
        format!("the registry sent {sent} bytes of {size}")
    });
    let furthest = readers.iter().map(SlowReader::bytes).max().unwrap_or_default();
    tally.note(format!(
        "{alive} readers, the first at {} MiB, {} MiB of {} from the registry",
        furthest / MIB,
        sent / MIB,
        size / MIB
    ));
    drop(readers);
    tally.added_in_bounds();
    report.add(&tally);
    scene.end(tally.is_good());
    drop(group);
    Ok(())
}

/// Bar 51: five hundred pulls at once where fifty are served. The others hear 503 at once and go to the registry.
pub(super) fn overloaded(effort: Effort, report: &mut Report) -> Result<()> {
    const PULLS: usize = 500;
    let mut tally = Tally::new("51 500 pulls, 50 are served");
    let mut scene = Scene::prepare(Plan {
        nodes: 1,
        ..Plan::default()
    })?;
    // The limit on requests to the registry, which answers slowly here, is another one.
    let registry = json!({ "registry.test": { "connectionsMax": 50 } });
    scene.node(0)?.settings.more = json!({
        "mirror": { "requestsMax": 50 },
        "origin": { "registries": registry },
    });
    scene.start_all()?;
    let slow = Fault::Delay(Duration::from_millis(500));
    scene
        .registry
        .origin
        .inject(Match::any().get(), When::Always, slow);
    let mut refused = 0;
    for _ in 0..effort.times(1, 20) {
        let mut errands = Vec::new();
        for _ in 0..PULLS {
            let blob = scene.blob(64 * 1024);
            errands.push(scene.errand(&blob));
        }
        let start = now();
        let node = scene.node(0)?;
        let begin = |mirrored: bool| -> Vec<Watch> {
            let errands = errands.iter().cloned();
            errands
                .map(|mut errand| {
                    if !mirrored {
                        errand.mirror = None;
                    }
                    node.begin(errand)
                })
                .collect()
        };
        let ends = ended(&begin(false))?;
        let plain = ends.iter().filter_map(|end| end.took).max().unwrap_or_default();
        for end in ended(&begin(true))? {
            tally.pull(&end, plain);
            let right = end.refusals.iter().all(|status| *status == 503);
            tally.must(right, || format!("surplus was told {:?}", end.refusals));
            refused += end.refusals.len();
            tally.must(
                end.slowest_refusal <= Duration::from_millis(100) + NOISE * 2,
                || format!("surplus was told so after {:?}", end.slowest_refusal),
            );
        }
        eprintln!("faults: 51: a round took {:?}", start.elapsed());
    }
    tally.must(refused > 0, || {
        "nobody was refused: the limit does not bind".to_owned()
    });
    tally.added_in_bounds();
    report.add(&tally);
    scene.end(tally.is_good());
    Ok(())
}
