//! What a manifest says: which contents it names, and that it says so in one way only.

use std::collections::BTreeMap;

use darter_types::{ContentKind, Digest, OriginLocator};
use oci_spec::image::MediaType;
use serde::Deserialize;
use serde::de::IgnoredAny;
use thiserror::Error;

/// Most contents of one manifest that are remembered.
const CHILDREN_MAX: usize = 4096;

/// Docker's own names, which the image specification does not have.
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// In the media types of layers that registries need not have, of the image specification and Docker's own.
const FOREIGN: [&str; 2] = [".layer.nondistributable.", ".rootfs.foreign."];

/// What a media type says of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// It names manifests.
    Index,
    /// It names blobs.
    Image,
}

/// The form that a media type stands for; `None` if it is no manifest's.
fn form(media_type: &str) -> Option<Form> {
    match (MediaType::from(media_type), media_type) {
        (MediaType::ImageIndex, _) | (_, DOCKER_LIST) => Some(Form::Index),
        (MediaType::ImageManifest | MediaType::ArtifactManifest, _) | (_, DOCKER_MANIFEST) => {
            Some(Form::Image)
        }
        _ => None,
    }
}

/// Why a manifest is not served.
#[derive(Debug, Error)]
pub enum DocumentError {
    /// It is no JSON, or not in the form of a manifest; a key that is there twice is neither.
    #[error("the registry's manifest cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// It can be read as an image and as an index (CVE-2021-41190).
    #[error("the registry's manifest is ambiguous: it is an image and an index at once")]
    Ambiguous,
    /// It names nothing, or is of a form without digests.
    #[error("the registry's answer is no manifest of schema version 2")]
    NoManifest,
}

/// A manifest or an index.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    /// Where the content is to be had, if not from the registry of the manifest.
    urls: Option<IgnoredAny>,
}

impl Document {
    /// Reads a manifest.
    ///
    /// # Errors
    /// See [`DocumentError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let document: Self = serde_json::from_slice(bytes)?;
        let image = document.config.is_some() || document.layers.is_some() || document.blobs.is_some();
        let index = document.manifests.is_some();
        if image && index || document.contradicts_its_type(index) {
            return Err(DocumentError::Ambiguous);
        }
        let version = document.schema_version == Some(2) || document.blobs.is_some();
        if !version || !(image || index) {
            return Err(DocumentError::NoManifest);
        }
        Ok(document)
    }

    fn contradicts_its_type(&self, index: bool) -> bool {
        let named = self.media_type.as_deref().and_then(form);
        named.is_some_and(|named| (named == Form::Index) != index)
    }

    /// The media type that it gives itself, or that its form has by the image specification.
    pub fn media_type(&self) -> String {
        let by_form = match (&self.manifests, &self.blobs) {
            (Some(_), _) => MediaType::ImageIndex,
            (None, Some(_)) => MediaType::ArtifactManifest,
            (None, None) => MediaType::ImageManifest,
        };
        self.media_type.clone().unwrap_or_else(|| by_form.to_string())
    }

    /// The contents that it names, with their lengths in bytes. Those that cannot be named are left out, and those that the
    /// registry need not have: it takes a manifest without looking whether such a layer is in the repository, so that
    /// naming one says nothing.
    pub fn children(&self, parent: &OriginLocator) -> impl Iterator<Item = (OriginLocator, u64)> {
        let lists = [&self.layers, &self.blobs, &self.manifests];
        let listed = lists.into_iter().flatten().flatten();
        self.config
            .iter()
            .chain(listed)
            .take(CHILDREN_MAX)
            .filter(|child| !child.is_foreign())
            .filter_map(|child| {
                let digest: Digest = child.digest.parse().ok()?;
                let locator = OriginLocator {
                    kind: child.kind(),
                    digest,
                    ..parent.clone()
                };
                Some((locator, child.size))
            })
    }
}

impl Descriptor {
    /// Whether it stands for a layer that is fetched from elsewhere.
    fn is_foreign(&self) -> bool {
        self.urls.is_some() || FOREIGN.iter().any(|part| self.media_type.contains(part))
    }

    /// An index may name blobs as well (build caches do), so the media type decides.
    fn kind(&self) -> ContentKind {
        match form(&self.media_type) {
            Some(_) => ContentKind::Manifest,
            None => ContentKind::Blob,
        }
    }
}

/// The body of a fuzz target: any bytes as a manifest.
///
/// # Panics
/// If more contents are named than are kept.
pub fn fuzz_document(data: &[u8]) {
    if let Ok(document) = Document::parse(data) {
        let Ok((registry, repository)) = "r.test".parse().and_then(|registry| Ok((registry, "a".parse()?)))
        else {
            return;
        };
        let parent = OriginLocator {
            registry,
            repository,
            kind: ContentKind::Manifest,
            digest: Digest::of(darter_types::Algorithm::Sha256, data),
        };
        let lengths: BTreeMap<OriginLocator, u64> = document.children(&parent).collect();
        assert!(
            lengths.len() <= CHILDREN_MAX,
            "{} children were kept",
            lengths.len()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn kind(text: &str) -> &'static str {
        match Document::parse(text.replace("ONE", ONE).as_bytes()) {
            Ok(_) => "ok",
            Err(DocumentError::Json(_)) => "json",
            Err(DocumentError::Ambiguous) => "ambiguous",
            Err(DocumentError::NoManifest) => "none",
        }
    }

    #[test]
    fn what_is_a_manifest() {
        let table = [
            (
                r#"{"schemaVersion":2,"config":{"digest":"ONE","size":1},"layers":[]}"#,
                "ok",
            ),
            (r#"{"schemaVersion":2,"manifests":[]}"#, "ok"),
            (
                r#"{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","blobs":[]}"#,
                "ok",
            ),
            (r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#, "ambiguous"),
            (
                r#"{"schemaVersion":2,"config":{"digest":"ONE","size":1},"manifests":[]}"#,
                "ambiguous",
            ),
            (
                r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","layers":[]}"#,
                "ambiguous",
            ),
            (r#"{"schemaVersion":2,"layers":[],"layers":[]}"#, "json"),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, "none"),
            (r#"{"errors":[]}"#, "none"),
            (
                r#"{"schemaVersion":2,"layers":[{"digest":"ONE","size":-1}]}"#,
                "json",
            ),
            ("<!doctype html>", "json"),
            ("[]", "json"),
            ("", "json"),
        ];
        for (text, expected) in table {
            assert_eq!(kind(text), expected, "{text}");
        }
    }

    #[test]
    fn children_are_manifests_or_blobs_by_their_type() {
        let manifest = MediaType::ImageManifest;
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[
                {{"mediaType":"{manifest}","digest":"{ONE}","size":7}},
                {{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{ONE}","size":8}},
                {{"mediaType":"{manifest}","digest":"md5:00","size":9}}]}}"#
        );
        let parent = OriginLocator {
            registry: "r.test".parse().unwrap(),
            repository: "a".parse().unwrap(),
            kind: ContentKind::Manifest,
            digest: Digest::of(darter_types::Algorithm::Sha256, b""),
        };
        let document = Document::parse(text.as_bytes()).unwrap();
        let children: Vec<(ContentKind, u64)> = document
            .children(&parent)
            .map(|(child, size)| (child.kind, size))
            .collect();
        assert_eq!(children, [(ContentKind::Manifest, 7), (ContentKind::Blob, 8)]);
        assert_eq!(document.media_type(), MediaType::ImageIndex.to_string());
    }

    #[test]
    fn what_the_registry_need_not_have_is_no_child() {
        let layer = |more: &str| format!(r#"{{"digest":"{ONE}","size":7,{more}}}"#);
        for (descriptor, children) in [
            (
                layer(r#""mediaType":"application/vnd.oci.image.layer.v1.tar+gzip""#),
                1,
            ),
            (layer(r#""urls":null"#), 1),
            (layer(r#""urls":["https://elsewhere.test/layer"]"#), 0),
            (layer(r#""urls":"nonsense""#), 0),
            (
                layer(r#""mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd""#),
                0,
            ),
            (
                layer(r#""mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip""#),
                0,
            ),
        ] {
            let text = format!(r#"{{"schemaVersion":2,"layers":[{descriptor}]}}"#);
            let document = Document::parse(text.as_bytes()).unwrap();
            let parent = OriginLocator {
                registry: "r.test".parse().unwrap(),
                repository: "a".parse().unwrap(),
                kind: ContentKind::Manifest,
                digest: Digest::of(darter_types::Algorithm::Sha256, b""),
            };
            assert_eq!(document.children(&parent).count(), children, "{descriptor}");
        }
    }

    #[test]
    fn likely_bytes_never_panic() {
        darter_testkit::fuzz::check("manifest", fuzz_document);
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            fuzz_document(text.as_bytes());
            fuzz_document(&bytes);
            fuzz_document(format!(r#"{{"schemaVersion":2,"layers":[{text}]}}"#).as_bytes());
        }
    }
}
