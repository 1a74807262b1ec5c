//! containerd with `darter snapshotter`: a converted image is pulled as Kubernetes pulls and runs before it is there.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use darter_e2e::clock::until;
use darter_e2e::image::sha256_of_file;
use darter_e2e::nydus::Nodes;
use darter_e2e::snapshots::{Snapshots, leave_swarm};

/// Far longer than what is removed takes to go.
const GONE: Duration = Duration::from_secs(60);
const NODES: u8 = 3;
const TAG: &str = "nydus";
const REFERS: &str = "refers";
/// What a container reads, beside the program that it is.
const READ: [&str; 3] = [
    "/usr/lib/python3.11/argparse.py",
    "/usr/lib/python3.11/os.py",
    "/etc/debian_version",
];
const SCRIPT: &str = "import hashlib, sys; print(*('sha256:' + hashlib.sha256(open(name, 'rb').read()).hexdigest() for name in sys.argv[1:]))";

/// Bytes of chunks that the registry sent.
fn sent(nodes: &Nodes) -> Result<u64> {
    let sent = nodes.sent()?;
    let blobs = nodes.blobs(TAG)?;
    Ok(blobs.keys().filter_map(|digest| sent.get(digest)).sum())
}

/// Runs a container on a node, which says what it reads.
fn read(node: &Snapshots, tag: &str, name: &str) -> Result<Vec<String>> {
    let mut words = vec!["/usr/bin/python3", "-c", SCRIPT];
    words.extend(READ);
    let name = format!("snapshots-{name}-{}", std::process::id());
    let said = node.run(tag, &name, &words)?;
    Ok(said.split_whitespace().map(str::to_owned).collect())
}

/// Nodes pull an image and run it. To one that is alone the registry sends what is read; to a swarm it sends all, and that once,
/// as long as `pull.onDemand` is `alone` by default. Nothing of it stays when it is removed.
#[test]
fn a_converted_image_runs_before_it_is_there() -> Result<()> {
    let mut nodes = Nodes::start(NODES)?;
    leave_swarm(&mut nodes, 0)?;
    nodes.convert(TAG, &[])?;
    nodes.convert(REFERS, &["--oci-ref"])?;
    let whole: u64 = nodes.blobs(TAG)?.values().sum();
    let inside = READ.map(|name| name.trim_start_matches('/'));
    let expected = inside.map(|name| sha256_of_file(&nodes.source().join(name)));
    let expected = expected.into_iter().collect::<Result<Vec<_>>>()?;
    let mut there = (0..usize::from(NODES))
        .map(|node| Snapshots::start(&nodes, node))
        .collect::<Result<Vec<_>>>()?;

    let (first, others) = there.split_first().context("there are nodes")?;
    first.pull(TAG)?;
    ensure!(sent(&nodes)? == 0, "a pull reads no chunks");
    let said = read(first, TAG, "first")?;
    ensure!(said == expected, "it read {said:?}, not {expected:?}");
    let once = sent(&nodes)?;
    ensure!(
        once > 0 && once * 3 < whole,
        "the registry sent {once} bytes of {whole}"
    );
    thread::scope(|scope| {
        let runs: Vec<_> = others
            .iter()
            .enumerate()
            .map(|(number, node)| {
                scope.spawn(move || {
                    node.pull(TAG)?;
                    read(node, TAG, &number.to_string())
                })
            })
            .collect();
        for run in runs {
            let said = run.join().map_err(|_| anyhow!("a run panicked"))??;
            ensure!(said == expected, "it read {said:?}, not {expected:?}");
        }
        Ok(())
    })?;
    let all = sent(&nodes)?;
    ensure!(
        (all - once) * 50 <= whole * 51,
        "the registry sent {once} bytes of {whole} to one node, {all} to all"
    );

    let first = there.first_mut().context("there are nodes")?;
    first.restart(&nodes, 0)?;
    ensure!(!first.mounted()?.is_empty(), "the image is mounted still");
    ensure!(
        read(first, TAG, "again")? == expected,
        "another tree after a restart"
    );
    ensure!(sent(&nodes)? == all, "it was read from the registry again");
    // Of an image that copies nothing the layers of indices are as those of chunks.
    first.pull(REFERS)?;
    let said = read(first, REFERS, "refers")?;
    ensure!(said == expected, "{REFERS}: it read {said:?}, not {expected:?}");
    first.remove(REFERS)?;
    for node in &there {
        node.remove(TAG)?;
        until("the end of all that the images had", GONE, || {
            let gone = node.mounted()?.is_empty() && node.listed()?.is_empty() && node.left()?.is_empty();
            Ok(gone.then_some(()))
        })?;
    }
    eprintln!("the registry sent {once} bytes to one node, {all} to {NODES}, of {whole}");
    drop(there);
    nodes.passed();
    Ok(())
}
