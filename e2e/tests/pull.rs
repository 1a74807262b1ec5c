//! The main job: containerd on four nodes, set up by `darter setup containerd`, pulls a real image through Darter, runs it, and
//! the registry sends each blob once.

use anyhow::{Result, ensure};
use darter_e2e::cluster::{Cluster, Sent, Size};

/// Two cores carry this easily; the links bind.
const SIZE: Size = Size {
    nodes: 4,
    origin_mbit: 200,
    node_mbit: 400,
};

/// The registry may send this much over the image's bytes: as payload, and on the wire with headers and
/// retransmissions.
fn check_sent_once(sent: Sent, bytes: u64) -> Result<()> {
    ensure!(
        sent.payload >= bytes,
        "the registry sent {} bytes of {bytes}: the counter is wrong",
        sent.payload
    );
    ensure!(
        sent.payload * 100 <= bytes * 102,
        "the registry sent {} bytes of payload for {bytes}",
        sent.payload
    );
    ensure!(
        sent.wire * 100 <= bytes * 110,
        "the registry sent {} bytes on the wire for {bytes}",
        sent.wire
    );
    Ok(())
}

/// All nodes at once, then a second image that shares layers, and a container of each; a small one runs on every node.
#[test]
fn gzip_image_leaves_the_registry_once() -> Result<()> {
    let mut cluster = Cluster::with_darter(SIZE)?;
    let image = cluster.image("mid", "gzip")?;
    check_sent_once(cluster.pull_everywhere(&image)?, image.bytes())?;
    let words = cluster.node(0)?.run(
        &image,
        &["python3", "-c", "import numpy; print(numpy.arange(5).sum())"],
    )?;
    ensure!(words.trim() == "10", "the container said '{words}'");

    let second = cluster.image("mid2", "gzip")?;
    let sent = cluster.pull_everywhere(&second)?;
    check_sent_once(sent, second.bytes_beyond(&image))?;
    let words = cluster
        .node(0)?
        .run(&second, &["python3", "-c", "import tokenizers; print('here')"])?;
    ensure!(words.trim() == "here", "the container said '{words}'");

    let small = cluster.image("bb", "gzip")?;
    let said = cluster.run_everywhere(&small, &["/bin/busybox", "echo", "here"])?;
    ensure!(
        said.len() == usize::from(SIZE.nodes) && said.iter().all(|words| words.trim() == "here"),
        "the containers said {said:?}"
    );
    cluster.passed();
    Ok(())
}

/// The same bytes compressed with zstd.
#[test]
fn zstd_image_leaves_the_registry_once() -> Result<()> {
    let mut cluster = Cluster::with_darter(SIZE)?;
    let image = cluster.image("mid", "zstd")?;
    check_sent_once(cluster.pull_everywhere(&image)?, image.bytes())?;
    let words = cluster
        .node(0)?
        .run(&image, &["python3", "-c", "import scipy; print('here')"])?;
    ensure!(words.trim() == "here", "the container said '{words}'");
    cluster.passed();
    Ok(())
}

/// What the cluster holds needs no registry: with it dead, by digest, a node that never pulled gets all of it.
#[test]
fn a_late_node_pulls_from_the_others() -> Result<()> {
    let mut cluster = Cluster::with_darter(SIZE)?;
    let image = cluster.image("bb", "gzip")?;
    let late = cluster.nodes.pop().expect("there are four nodes");
    let first = cluster.pull_everywhere(&image)?;
    cluster.nodes = vec![late];
    let second = cluster.pull_everywhere(&image)?;
    ensure!(first.payload >= image.bytes(), "{} bytes", first.payload);
    // The tag is revalidated at the registry: a HEAD has no body.
    ensure!(
        second.payload == 0,
        "the registry sent {} bytes for what the nodes hold",
        second.payload
    );
    cluster.passed();
    Ok(())
}
