//! The harness itself, without Darter: caps hold, counters count, pulls bring what the registry holds, faults
//! are faults. What these tests prove is what the others rely on.

use anyhow::{Result, ensure};
use darter_e2e::cluster::{Cluster, Size};
use darter_e2e::shape::held_back;

/// Four nodes pull a real image of 200 MB from a real registry over capped links, and one runs it.
#[test]
fn nodes_pull_directly_from_the_registry() -> Result<()> {
    let mut cluster = Cluster::direct(Size {
        nodes: 4,
        origin_mbit: 1000,
        node_mbit: 1000,
    })?;
    let image = cluster.image("mid", "gzip")?;
    ensure!(
        image.bytes() > 150_000_000,
        "{} has only {} bytes",
        image.reference(),
        image.bytes()
    );
    ensure!(
        image.layers.len() == 3,
        "{} has {} layers",
        image.reference(),
        image.layers.len()
    );

    let sent = cluster.pull_everywhere(&image)?;

    // Every node fetched each content once, and the two witnesses agree: headers cost 4 to 5 %.
    let copies = 4 * image.bytes();
    ensure!(
        sent.payload >= copies,
        "{} bytes of payload for {copies} bytes of images",
        sent.payload
    );
    ensure!(
        sent.payload < copies + 100_000,
        "{} bytes of payload for {copies} bytes of images",
        sent.payload
    );
    ensure!(
        sent.wire > sent.payload,
        "{} bytes on the wire for {} of payload",
        sent.wire,
        sent.payload
    );
    ensure!(
        sent.wire < copies * 110 / 100,
        "{} bytes on the wire for {copies} bytes of images",
        sent.wire
    );
    let by_digest = cluster.registry.sent_by_digest()?;
    for layer in &image.layers {
        let sent = by_digest.get(&layer.digest).copied().unwrap_or_default();
        ensure!(
            sent == 4 * layer.size,
            "{} was sent {sent} bytes of, not 4 times {}",
            layer.digest,
            layer.size
        );
    }

    let words = cluster.node(0)?.run(
        &image,
        &["python3", "-c", "import numpy; print(numpy.arange(5).sum())"],
    )?;
    ensure!(words.trim() == "10", "the container said '{words}'");
    cluster.passed();
    Ok(())
}

/// A cap holds packets back, and an uncapped link does not have one.
#[test]
fn caps_bind() -> Result<()> {
    let mut cluster = Cluster::direct(Size {
        nodes: 2,
        origin_mbit: 50,
        node_mbit: 1000,
    })?;
    let image = cluster.image("bb", "gzip")?;
    let origin = cluster.registry.host()?.clone();
    let before = held_back(&origin)?;
    cluster.pull_everywhere(&image)?;
    ensure!(
        held_back(&origin)? > before,
        "a cap of 50 Mbit/s let a megabyte through at once"
    );
    cluster.passed();
    Ok(())
}

/// A content that was changed on a node's disk is found: the other tests' comparison can fail.
#[test]
fn verification_finds_a_flipped_bit() -> Result<()> {
    let mut cluster = Cluster::direct(Size {
        nodes: 1,
        origin_mbit: 1000,
        node_mbit: 1000,
    })?;
    let image = cluster.image("bb", "gzip")?;
    cluster.pull_everywhere(&image)?;
    let node = cluster.node(0)?;
    let path = node.content_path(&image.layers[0])?;
    let mut bytes = std::fs::read(&path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes)?;
    let found = node
        .verify(&image)
        .is_err_and(|error| format!("{error:#}").contains(&image.layers[0].digest));
    ensure!(found, "a flipped bit was not found");
    cluster.passed();
    Ok(())
}

/// With the registry dead a pull fails: pulls that succeed in other tests did not do so by accident.
#[test]
fn a_dead_registry_fails_the_pull() -> Result<()> {
    let mut cluster = Cluster::direct(Size {
        nodes: 1,
        origin_mbit: 1000,
        node_mbit: 1000,
    })?;
    let image = cluster.image("bb", "gzip")?;
    cluster.registry.process().kill()?;
    let pulls = cluster.start_pulls(&image)?;
    ensure!(
        cluster.finish_pulls(pulls, &image).is_err(),
        "a pull from a dead registry succeeded"
    );
    cluster.passed();
    Ok(())
}
