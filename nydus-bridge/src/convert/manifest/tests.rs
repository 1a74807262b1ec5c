//! What readers find in what is written here.

use super::*;
use crate::image::NydusImage;

fn content(digit: u8, size: u64) -> Content {
    Content {
        digest: Digest::new(Algorithm::Sha256, &[digit; 32]).unwrap(),
        size,
    }
}

fn metadata() -> Metadata {
    Metadata {
        bootstrap: content(3, 30),
        diff_id: content(4, 0).digest,
        version: RafsVersion::V6,
    }
}

fn blobs() -> Vec<Blob> {
    vec![
        Blob {
            content: content(1, 10),
            refers: None,
        },
        Blob {
            content: content(2, 20),
            refers: Some(content(9, 0).digest),
        },
    ]
}

fn value(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn the_manifest_is_recognised() {
    let bytes = manifest(content(5, 50), &blobs(), &metadata(), ("mark", None));
    let Document::Image(layers) = Document::parse(&bytes).unwrap() else {
        panic!("an image");
    };
    let image = NydusImage::recognise(&layers).unwrap();
    assert_eq!(image.bootstrap.digest, content(3, 0).digest);
    assert_eq!(image.version, Some(RafsVersion::V6));
    assert_eq!(super::bytes(&bytes), 60);
    assert!(is_marked(&bytes, "mark") && !is_marked(&bytes, "other") && !is_marked(b"", ""));
    let sizes: Vec<_> = image.blobs.iter().map(|blob| blob.size).collect();
    assert_eq!(sizes, [10, 20]);
    let found = value(&bytes);
    assert_eq!(found.get("subject"), None);
    assert_eq!(
        found.pointer("/layers/0"),
        Some(&json!({
            "mediaType": "application/vnd.oci.image.layer.nydus.blob.v1",
            "digest": format!("sha256:{}", "01".repeat(32)),
            "size": 10,
            "annotations": {
                "containerd.io/snapshot/nydus-blob": "true",
                "containerd.io/snapshot/nydus-blob-digest": format!("sha256:{}", "01".repeat(32)),
                "containerd.io/snapshot/nydus-blob-size": "10",
                "containerd.io/uncompressed": format!("sha256:{}", "01".repeat(32)),
            },
        }))
    );
    assert_eq!(
        found.pointer("/layers/1/annotations/containerd.io~1snapshot~1nydus-ref"),
        Some(&json!(format!("sha256:{}", "09".repeat(32))))
    );
    assert_eq!(
        found.pointer("/layers/2/annotations"),
        Some(&json!({
            "containerd.io/snapshot/nydus-bootstrap": "true",
            "containerd.io/snapshot/nydus-fs-version": "6",
            "containerd.io/uncompressed": format!("sha256:{}", "04".repeat(32)),
        }))
    );
}

#[test]
fn a_referrer_names_its_subject() {
    let subject = json!({ "mediaType": MANIFEST, "digest": "sha256:00", "size": 1 });
    let found = value(&manifest(
        content(5, 50),
        &blobs(),
        &metadata(),
        ("mark", Some(&subject)),
    ));
    assert_eq!(found.get("subject"), Some(&subject));
    assert_eq!(found.get("artifactType"), Some(&json!(image::NYDUS_ARTIFACT)));
}

#[test]
fn the_configuration_is_the_originals_with_the_new_layers() {
    let original = json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": ["sha256:old"] }, "history": [{}, {}],
    });
    let found = value(&config(original.to_string().as_bytes(), &blobs(), &metadata()).unwrap());
    assert_eq!(found.pointer("/config/Cmd/0"), Some(&json!("sh")));
    let ids = [1, 2, 4].map(|digit| content(digit, 0).digest.to_string());
    assert_eq!(found.pointer("/rootfs/diff_ids"), Some(&json!(ids)));
    let history = found.get("history").and_then(Value::as_array).unwrap();
    assert_eq!(history.len(), 3, "one for each layer");
    assert!(config(b"[]", &blobs(), &metadata()).is_err());
}

fn original(index: Option<Value>) -> Original {
    Original {
        digest: content(7, 0).digest,
        descriptor: json!({ "mediaType": MANIFEST, "digest": "sha256:07", "size": 7 }),
        config: Vec::new(),
        layers: Vec::new(),
        platform: "arm/v7".parse().unwrap(),
        index,
    }
}

#[test]
fn an_index_has_the_original_and_one_nydus_image_for_its_platform() {
    let of = |digit: u8| entry(content(digit, 0).digest, 11, &"arm/v7".parse().unwrap());
    let first = value(&index(None, &original(None), of(1)).unwrap());
    assert_eq!(first.pointer("/manifests/0/digest"), Some(&json!("sha256:07")));
    assert_eq!(first.pointer("/manifests/0/platform/variant"), Some(&json!("v7")));
    assert_eq!(first.pointer("/manifests/1"), Some(&of(1)));
    assert_eq!(nydus_images(first.to_string().as_bytes()), [content(1, 0).digest]);
    // What nobody can read is not written over.
    assert!(index(Some(b"<html>"), &original(Some(first.clone())), of(2)).is_err());
    let second = value(&index(None, &original(Some(first)), of(2)).unwrap());
    let manifests = second.get("manifests").and_then(Value::as_array).unwrap();
    assert_eq!(manifests.len(), 2, "the earlier one is replaced: {second}");
    assert_eq!(manifests.last(), Some(&of(2)));
    assert!(Document::parse(second.to_string().as_bytes()).is_ok());
}
