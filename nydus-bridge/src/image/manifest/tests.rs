//! Manifests as converters write them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn digest(number: u8) -> String {
    format!("sha256:{}", format!("{number:02x}").repeat(32))
}

fn data(number: u8) -> Value {
    json!({
        "mediaType": NYDUS_BLOB_TYPE,
        "digest": digest(number),
        "size": 100,
        "annotations": { NYDUS_BLOB: "true" },
    })
}

fn bootstrap(more: &[(&str, &str)]) -> Value {
    let mut annotations = json!({ NYDUS_BOOTSTRAP: "true", NYDUS_VERSION: "6" });
    for (key, value) in more {
        annotations[key] = json!(value);
    }
    json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": digest(9),
        "size": 7,
        "annotations": annotations,
    })
}

fn recognise(layers: &[Value]) -> Result<NydusImage, ManifestError> {
    let manifest = json!({ "schemaVersion": 2, "config": {}, "layers": layers });
    match Document::parse(manifest.to_string().as_bytes())? {
        Document::Image(layers) => NydusImage::recognise(&layers),
        Document::Index(_) => panic!("not an index"),
    }
}

#[test]
fn a_nydus_image_is_its_blobs_and_its_bootstrap() {
    let image = recognise(&[data(1), data(2), bootstrap(&[])]).unwrap();
    assert_eq!(image.bootstrap.digest.to_string(), digest(9));
    assert_eq!(image.bootstrap.size, 7);
    assert_eq!(image.version, Some(RafsVersion::V6));
    let blobs: Vec<String> = image.blobs.iter().map(|blob| blob.digest.to_string()).collect();
    assert_eq!(blobs, [digest(1), digest(2)]);
}

#[test]
fn either_mark_of_a_blob_will_do() {
    let mut by_type = data(1);
    by_type["annotations"] = json!({});
    let mut by_annotation = data(2);
    by_annotation["mediaType"] = json!("application/octet-stream");
    let mut ordinary = by_annotation.clone();
    ordinary["annotations"] = json!({});
    let image = recognise(&[
        by_type,
        by_annotation,
        ordinary,
        bootstrap(&[(NYDUS_VERSION, "5")]),
    ])
    .unwrap();
    assert_eq!((image.blobs.len(), image.version), (2, Some(RafsVersion::V5)));
}

#[test]
fn what_cannot_be_mounted_is_told() {
    let mut plain = bootstrap(&[]);
    plain["annotations"] = json!({});
    let mut nameless = bootstrap(&[]);
    nameless["digest"] = json!("../../etc");
    for (layers, said) in [
        (vec![], "not a Nydus image"),
        (vec![data(1), plain], "not a Nydus image"),
        (vec![bootstrap(&[]), data(1)], "not a Nydus image"),
        (
            vec![data(1), bootstrap(&[(NYDUS_ENCRYPTED, "true")])],
            "encrypted",
        ),
        (vec![data(1), bootstrap(&[(NYDUS_TARFS, "true")])], "tarfs"),
        (vec![data(1), nameless], "no digest"),
    ] {
        let error = recognise(&layers).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

fn variant(number: u8, architecture: &str, more: Value) -> Value {
    let mut platform = json!({ "os": "linux", "architecture": architecture });
    if let Some(feature) = more.get("feature") {
        platform["os.features"] = json!([feature]);
    }
    json!({
        "digest": digest(number),
        "size": 1,
        "platform": platform,
        "artifactType": more.get("artifact").cloned().unwrap_or(json!("")),
    })
}

fn chosen(manifests: &[Value]) -> Result<String, ManifestError> {
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    match Document::parse(index.to_string().as_bytes())? {
        Document::Index(manifests) => choose(&manifests, "amd64").map(|digest| digest.to_string()),
        Document::Image(_) => panic!("not an image"),
    }
}

#[test]
fn an_index_leads_to_the_nydus_variant_of_the_platform() {
    for mark in [
        json!({ "feature": NYDUS_FEATURE }),
        json!({ "artifact": NYDUS_ARTIFACT }),
    ] {
        let manifests = [
            variant(1, "arm64", mark.clone()),
            variant(2, "amd64", mark),
            variant(3, "amd64", json!({})),
        ];
        assert_eq!(chosen(&manifests).unwrap(), digest(2));
    }
    assert_eq!(chosen(&[variant(3, "amd64", json!({}))]).unwrap(), digest(3));
    assert!(matches!(
        chosen(&[variant(1, "arm64", json!({}))]),
        Err(ManifestError::Platform(_))
    ));
}

#[test]
fn what_is_no_manifest_is_refused() {
    for text in [
        "",
        "{}",
        "[]",
        r#"{"layers":[],"manifests":[]}"#,
        r#"{"layers":[{"size":-1}]}"#,
    ] {
        assert!(Document::parse(text.as_bytes()).is_err(), "{text}");
    }
    let many = json!({ "layers": vec![json!({}); ENTRIES_MAX + 1] });
    assert!(matches!(
        Document::parse(many.to_string().as_bytes()),
        Err(ManifestError::TooMany)
    ));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Document::parse(&bytes);
    }
}

#[test]
fn any_bytes_are_a_manifest_or_none() {
    darter_testkit::fuzz::check("nydus_manifest", fuzz_manifest);
}
