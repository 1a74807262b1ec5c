//! Layers with metadata, whole and broken ones.

use std::io::Write as _;

use darter_types::Algorithm;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::blob::Folder;

const BOOTSTRAP: &[u8] = b"metadata, metadata";

fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// What is unpacked from a layer whose digest is `named`, or its own.
async fn fetched(layer: &[u8], named: Option<Digest>) -> Result<Vec<u8>, BootstrapError> {
    let dir = tempfile::tempdir().unwrap();
    let digest = named.unwrap_or_else(|| Digest::of(Algorithm::Sha256, layer));
    std::fs::write(dir.path().join(digest.hex()), layer).unwrap();
    let tasks = Tasks::new();
    let source = Folder::new(dir.path(), tasks.clone());
    let content = Content {
        digest,
        size: layer.len() as u64,
    };
    let unpacked = Bootstrap::fetch(&content, &source, dir.path(), &tasks).await?;
    let names = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 1, "the layer alone: a killed process would leave the rest");
    Ok(std::fs::read(unpacked.path()).unwrap())
}

#[tokio::test]
async fn the_bootstrap_is_found_in_any_layer_that_has_one() {
    for layer in [
        tar(&[("image/image.boot", BOOTSTRAP)]),
        tar(&[("image/", b""), ("./image/image.boot", BOOTSTRAP)]),
        tar(&[("else", b"other"), ("image.boot", BOOTSTRAP)]),
    ] {
        assert_eq!(fetched(&layer, None).await.unwrap(), BOOTSTRAP);
        assert_eq!(fetched(&gzip(&layer), None).await.unwrap(), BOOTSTRAP);
    }
}

#[tokio::test]
async fn a_layer_without_a_bootstrap_is_told() {
    for layer in [tar(&[]), tar(&[("image/image.boot.old", BOOTSTRAP)]), Vec::new()] {
        assert!(matches!(
            fetched(&layer, None).await,
            Err(BootstrapError::Missing(_))
        ));
    }
    let cut = gzip(&tar(&[("image/image.boot", BOOTSTRAP)]));
    assert!(fetched(&cut[..cut.len() / 2], None).await.is_err());
}

#[tokio::test]
async fn a_layer_with_another_digest_is_refused() {
    let layer = tar(&[("image/image.boot", BOOTSTRAP)]);
    let other = Digest::of(Algorithm::Sha256, b"other");
    let refused = fetched(&layer, Some(other)).await;
    assert!(matches!(refused, Err(BootstrapError::Digest { .. })));
}

#[tokio::test]
async fn a_layer_that_is_too_long_is_not_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = Tasks::new();
    let content = Content {
        digest: Digest::of(Algorithm::Sha256, b""),
        size: LAYER_BYTES_MAX + 1,
    };
    let source = Folder::new(dir.path(), tasks.clone());
    let refused = Bootstrap::fetch(&content, &source, dir.path(), &tasks).await;
    assert!(matches!(refused, Err(BootstrapError::TooLong(_))));
}
