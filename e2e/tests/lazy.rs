//! Nydus images, converted and mounted lazily on several nodes through Darter, beside the real Nydus programs.

use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use darter_e2e::clock::now;
use darter_e2e::command::run;
use darter_e2e::nydus::{Daemon, Kind, Mounted, Nodes, Setting, Through, Tree, tool, tree_of};

/// No read may hang longer, whatever is gone.
const BOUND: Duration = Duration::from_secs(180);
/// A file of some megabytes that nobody reads while an image is mounted.
const LARGE: &str = "usr/bin/python3.11";

/// Reads whole trees at the same moment, each on a thread of its own.
fn read_together(points: &[&Path]) -> Result<Vec<Tree>> {
    thread::scope(|scope| {
        let readers: Vec<_> = points
            .iter()
            .map(|point| scope.spawn(move || tree_of(point)))
            .collect();
        readers
            .into_iter()
            .map(|reader| {
                reader
                    .join()
                    .unwrap_or_else(|_| Err(anyhow!("a reader panicked")))
            })
            .collect()
    })
}

/// A file of a mount, read through a new descriptor.
fn read(mounted: &Mounted, name: &str) -> std::io::Result<Vec<u8>> {
    std::fs::read(mounted.point().join(name))
}

/// Nodes that mount and read an image at once see what the ordinary image holds, and the registry sends each byte once.
#[test]
fn an_image_is_read_on_all_nodes_and_leaves_the_registry_once() -> Result<()> {
    let nodes = Nodes::start(3)?;
    nodes.convert("nydus", &[])?;
    let again = nodes.convert("nydus", &[])?;
    ensure!(again.contains(" 0 of them new"), "a second time: {again}");
    run(std::process::Command::new(tool("nydus-image")?)
        .args(["check", "--bootstrap"])
        .arg(nodes.bootstrap("nydus")?))?;
    let expected = tree_of(nodes.source())?;
    let mut mounts = (0..3)
        .map(|node| nodes.start_mount(node, "nydus", &[]))
        .collect::<Result<Vec<_>>>()?;
    mounts.iter_mut().try_for_each(Mounted::ready)?;
    let points: Vec<_> = mounts.iter().map(Mounted::point).collect();
    for tree in read_together(&points)? {
        tree.ensure_equal(&expected)?;
    }
    ensure!(expected.len() > 1000, "{} names", expected.len());
    let sent = nodes.sent()?;
    for (digest, size) in nodes.blobs("nydus")? {
        let sent = sent.get(&digest).copied().unwrap_or_default();
        ensure!(
            sent * 2 > size && sent * 100 <= size * 102,
            "the registry sent {sent} bytes of a blob of {size}"
        );
    }
    drop(mounts);
    nodes.passed();
    Ok(())
}

/// A container reads one in so many bytes of the image when it starts: well below half of it, with what is read ahead.
const STARTS_WITH: u64 = 8;

/// What a container reads when it starts: the first files of the image by name.
fn start_files(source: &Path) -> Result<Vec<PathBuf>> {
    let (mut folders, mut files) = (vec![source.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => {
                    let name = entry.path().strip_prefix(source)?.to_owned();
                    files.push((name, entry.metadata()?.len()));
                }
                _ => {}
            }
        }
    }
    files.sort_unstable();
    let all: u64 = files.iter().map(|(_, size)| size).sum();
    let mut read = 0;
    let starts = files.into_iter().take_while(|(_, size)| {
        read += size;
        read * STARTS_WITH <= all
    });
    Ok(starts.map(|(name, _)| name).collect())
}

/// Reads files of a mount; they must be those of the image.
fn start_container(mounted: &Mounted, source: &Path, files: &[PathBuf]) -> Result<()> {
    for name in files {
        let found = std::fs::read(mounted.point().join(name));
        let found = found.with_context(|| format!("{}", name.display()))?;
        ensure!(
            found == std::fs::read(source.join(name))?,
            "{}: other bytes",
            name.display()
        );
    }
    Ok(())
}

/// Nodes that fetch only what is read, from the swarm.
fn on_demand(nodes: u8) -> Result<Nodes> {
    let nodes = Nodes::with(&Setting {
        always: true,
        ..Setting::swarm(nodes)
    })?;
    nodes.convert("nydus", &[])?;
    Ok(nodes)
}

/// What the registry sent of the image's blobs, and what they have.
fn sent_and_size(nodes: &Nodes) -> Result<(u64, u64)> {
    let (sent, blobs) = (nodes.sent()?, nodes.blobs("nydus")?);
    let sent = blobs.keys().filter_map(|digest| sent.get(digest));
    Ok((sent.sum(), blobs.values().sum()))
}

/// What the registry sends for one node that starts the image.
fn sent_for_one() -> Result<u64> {
    let nodes = on_demand(1)?;
    let files = start_files(nodes.source())?;
    let mounted = nodes.mount(0, "nydus", &[])?;
    start_container(&mounted, nodes.source(), &files)?;
    drop(mounted);
    let (sent, size) = sent_and_size(&nodes)?;
    ensure!(sent * 2 < size, "{sent} bytes of {size}: all of it was fetched");
    nodes.passed();
    Ok(sent)
}

/// Nodes that start the same image fetch what they touch, and each piece of that leaves the registry once; also where one of them
/// dies in the middle.
#[test]
fn nodes_that_start_an_image_fetch_what_they_touch_once_for_all() -> Result<()> {
    let one = sent_for_one()?;
    let mut nodes = on_demand(4)?;
    let files = start_files(nodes.source())?;
    let mut mounts = (0..4)
        .map(|node| nodes.start_mount(node, "nydus", &[]))
        .collect::<Result<Vec<_>>>()?;
    mounts.iter_mut().try_for_each(Mounted::ready)?;
    let (victim, source) = (mounts.pop().context("four mounts")?, nodes.source().to_owned());
    let (first, rest) = files.split_at(files.len() / 2);
    let halfway = Barrier::new(4);
    let mut dying = nodes.proxies.pop().context("four proxies")?;
    thread::scope(|scope| {
        let (halfway, source, files) = (&halfway, &source, &files);
        let readers: Vec<_> = mounts
            .iter()
            .map(|mounted| {
                scope.spawn(move || {
                    let read = start_container(mounted, source, first);
                    halfway.wait();
                    read.and_then(|()| start_container(mounted, source, rest))
                })
            })
            .collect();
        let dies = scope.spawn(|| {
            let read = start_container(&victim, source, first);
            halfway.wait();
            read.and_then(|()| dying.process().kill())
        });
        let ended = readers.into_iter().chain([dies]);
        ended
            .map(|reader| {
                reader
                    .join()
                    .unwrap_or_else(|_| Err(anyhow!("a reader panicked")))
            })
            .collect::<Result<Vec<()>>>()
            .map(drop)
            .with_context(|| format!("{} files", files.len()))
    })?;
    drop((mounts, victim));
    let (sent, size) = sent_and_size(&nodes)?;
    println!("the registry sent {sent} bytes for four nodes, {one} for one, of {size}");
    ensure!(
        sent * 100 <= one * 102,
        "the registry sent {sent} bytes for four nodes, {one} for one"
    );
    nodes.passed();
    Ok(())
}

/// An image that copies nothing shows the same tree, from the ordinary layers.
#[test]
fn an_image_that_refers_to_ordinary_layers() -> Result<()> {
    let nodes = Nodes::start(1)?;
    let said = nodes.convert("refers", &["--oci-ref", "--referrer"])?;
    let referrers = nodes.referrers()?;
    ensure!(
        referrers.len() == 1 && referrers.iter().all(|digest| said.contains(digest.as_str())),
        "{referrers:?} refer to the original, and it was said: {said}"
    );
    let expected = tree_of(nodes.source())?;
    let mounted = nodes.mount(0, "refers", &[])?;
    tree_of(mounted.point())?.ensure_equal(&expected).context(said)?;
    drop(mounted);
    nodes.passed();
    Ok(())
}

/// All forms that the real program makes.
#[test]
fn images_of_the_real_program() -> Result<()> {
    let nodes = Nodes::start(1)?;
    let tree = nodes.source().join("usr/lib/python3.11");
    let expected = tree_of(&tree)?;
    for kind in Kind::ALL {
        nodes.make(&tree, kind)?;
        let mounted = nodes.mount(0, &kind.tag(), &[])?;
        let found = tree_of(mounted.point())?;
        found.ensure_equal(&expected).context(kind.tag())?;
    }
    nodes.passed();
    Ok(())
}

/// The real nydusd reads an image that was converted here, with the node's proxy as its proxy and as its mirror, and what one
/// node has the registry does not send again.
#[test]
fn the_real_nydusd_reads_through_the_proxy() -> Result<()> {
    let nodes = Nodes::start(2)?;
    nodes.convert("nydus", &[])?;
    let expected = tree_of(nodes.source())?;
    let blobs = nodes.blobs("nydus")?;
    for (node, through) in [Through::Forward, Through::Mirror].into_iter().enumerate() {
        let daemon = Daemon::start(&nodes, node, "nydus", through)?;
        let found = tree_of(daemon.point())?;
        found
            .ensure_equal(&expected)
            .with_context(|| format!("{through:?}"))?;
    }
    let sent = nodes.sent()?;
    for (digest, size) in blobs {
        let sent = sent.get(&digest).copied().unwrap_or_default();
        ensure!(
            sent * 2 > size && sent * 100 <= size * 102,
            "the registry sent {sent} bytes of a blob of {size}"
        );
    }
    nodes.passed();
    Ok(())
}

/// While the registry, the scheduler or the proxy is away a read waits or fails, in a bounded time; afterwards all can be read.
#[test]
fn reads_go_on_after_what_was_away() -> Result<()> {
    let mut nodes = Nodes::start(1)?;
    let expected = std::fs::read(nodes.source().join(LARGE))?;
    for away in ["registry", "scheduler", "proxy"] {
        // A chunk size of its own, so that nobody has these bytes.
        let size = match away {
            "registry" => "256KiB",
            "scheduler" => "512KiB",
            _ => "2MiB",
        };
        nodes.convert(away, &["--chunk-size", size])?;
        let mounted = nodes.mount(0, away, &[])?;
        match away {
            "registry" => nodes.registry.process().freeze()?,
            "scheduler" => nodes.scheduler()?.process().freeze()?,
            _ => nodes.proxies.first_mut().context("a proxy")?.process().kill()?,
        }
        let start = now();
        let result = read(&mounted, LARGE);
        ensure!(start.elapsed() < BOUND, "{away}: {:?}", start.elapsed());
        match &result {
            Ok(bytes) => ensure!(*bytes == expected, "{away}: other bytes"),
            Err(error) => ensure!(error.raw_os_error() == Some(5), "{away}: {error}"),
        }
        ensure!(away == "scheduler" || result.is_err(), "{away}: where from?");
        ensure!(away != "scheduler" || result.is_ok(), "{away}: {result:?}");
        match away {
            "registry" => nodes.registry.process().thaw()?,
            "scheduler" => nodes.scheduler()?.process().thaw()?,
            _ => nodes.restart_proxy(0)?,
        }
        let found = read(&mounted, LARGE).with_context(|| format!("with the {away} back"))?;
        ensure!(found == expected, "with the {away} back: other bytes");
    }
    nodes.passed();
    Ok(())
}
