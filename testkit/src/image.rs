//! Small valid images in an [`Origin`]: real tar.gz layers, a config with their diff ids, a manifest in
//! the OCI or Docker form, an index over several platforms, referrers.
//!
//! They are real enough for containerd to unpack. Equal specs give equal bytes, hence equal digests.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::content::{bytes_at, mix, sha256_of};
use crate::origin::Origin;

/// Media types of the two families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flavour {
    /// `application/vnd.oci.image.*`
    #[default]
    Oci,
    /// `application/vnd.docker.distribution.*`, schema 2.
    Docker,
}

impl Flavour {
    /// The media type of a manifest of one platform.
    pub fn manifest_type(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    /// The media type of an index (Docker: manifest list).
    pub fn index_type(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.index.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    /// The media type of a config.
    pub fn config_type(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.config.v1+json",
            Self::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    /// The media type of a tar.gz layer.
    pub fn layer_type(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Docker => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }
}

/// Operating system and architecture, as in an image index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// E.g. `amd64`.
    pub architecture: String,
    /// E.g. `linux`.
    pub os: String,
}

impl Platform {
    /// `linux` on this architecture.
    pub fn linux(architecture: &str) -> Self {
        Self {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
        }
    }
}

/// A reference to content (image-spec, "content descriptors").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// `sha256:…`
    pub digest: String,
    /// Length in bytes.
    pub size: u64,
    /// Only in an index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// What an image shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSpec {
    /// Makes its bytes differ from those of other images.
    pub seed: u64,
    /// The length of the one file in each layer; the compressed layer is a little longer.
    pub layers: Vec<usize>,
    /// What the config says.
    pub platform: Platform,
    /// Media types.
    pub flavour: Flavour,
}

impl ImageSpec {
    /// An OCI image for linux/amd64 with such layers.
    pub fn new(seed: u64, layers: &[usize]) -> Self {
        let platform = Platform::linux("amd64");
        Self {
            seed,
            layers: layers.to_vec(),
            platform,
            flavour: Flavour::Oci,
        }
    }

    /// The same in another family of media types.
    #[must_use]
    pub fn flavour(self, flavour: Flavour) -> Self {
        Self { flavour, ..self }
    }

    /// The same for another platform.
    #[must_use]
    pub fn platform(self, platform: Platform) -> Self {
        Self { platform, ..self }
    }
}

/// An image that is in an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The repository.
    pub repository: String,
    /// The tag, if it has one.
    pub tag: Option<String>,
    /// The manifest, with its platform.
    pub manifest: Descriptor,
    /// The config blob.
    pub config: Descriptor,
    /// The layer blobs, lowest first.
    pub layers: Vec<Descriptor>,
}

impl Image {
    /// `<host>/<repository>:<tag>`, or by digest if it has no tag.
    pub fn reference(&self, host: &str) -> String {
        reference(host, &self.repository, self.tag.as_deref(), &self.manifest.digest)
    }

    /// Config and layers: all blobs that a pull fetches.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

/// An index over several platforms that is in an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The repository.
    pub repository: String,
    /// The tag.
    pub tag: String,
    /// The index itself.
    pub index: Descriptor,
    /// Its images, in the order of their specs.
    pub images: Vec<Image>,
}

impl Index {
    /// `<host>/<repository>:<tag>`.
    pub fn reference(&self, host: &str) -> String {
        reference(host, &self.repository, Some(&self.tag), &self.index.digest)
    }
}

/// Adds an image, under a tag if one is given.
pub fn add_image(origin: &Origin, repository: &str, tag: Option<&str>, spec: &ImageSpec) -> Image {
    let built: Vec<Layer> = spec
        .layers
        .iter()
        .zip(0..)
        .map(|(&len, n)| layer(spec, n, len))
        .collect();
    let diff_ids: Vec<&str> = built.iter().map(|layer| layer.diff_id.as_str()).collect();
    let config = json!({
        "architecture": spec.platform.architecture,
        "os": spec.platform.os,
        "created": "1970-01-01T00:00:00Z",
        "config": { "Cmd": ["/file-0"], "Labels": { "seed": spec.seed.to_string() } },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = add_blob(
        origin,
        repository,
        spec.flavour.config_type(),
        config.to_string().into_bytes(),
    );
    let layer_type = spec.flavour.layer_type();
    let layers: Vec<_> = built
        .into_iter()
        .map(|layer| add_blob(origin, repository, layer_type, layer.tar_gz))
        .collect();
    let media_type = spec.flavour.manifest_type();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type, "config": &config, "layers": &layers,
    });
    let mut manifest = add_manifest(origin, repository, tag, media_type, &manifest);
    manifest.platform = Some(spec.platform.clone());
    Image {
        repository: repository.to_owned(),
        tag: tag.map(str::to_owned),
        manifest,
        config,
        layers,
    }
}

/// Adds an index under a tag, and its images without tags. The index has the first one's flavour.
pub fn add_index(origin: &Origin, repository: &str, tag: &str, specs: &[ImageSpec]) -> Index {
    let images: Vec<Image> = specs
        .iter()
        .map(|spec| add_image(origin, repository, None, spec))
        .collect();
    let manifests: Vec<&Descriptor> = images.iter().map(|image| &image.manifest).collect();
    let media_type = specs
        .first()
        .map_or(Flavour::Oci, |spec| spec.flavour)
        .index_type();
    let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
    let index = add_manifest(origin, repository, Some(tag), media_type, &index);
    Index {
        repository: repository.to_owned(),
        tag: tag.to_owned(),
        index,
        images,
    }
}

/// Adds a manifest that refers to `subject`, as a signature does, with one small blob.
pub fn add_referrer(
    origin: &Origin,
    repository: &str,
    subject: &Descriptor,
    artifact_type: &str,
    blob: &'static str,
) -> Descriptor {
    let media_type = Flavour::Oci.manifest_type();
    let empty = add_blob(
        origin,
        repository,
        "application/vnd.oci.empty.v1+json",
        b"{}".to_vec(),
    );
    let layer = add_blob(origin, repository, "application/octet-stream", blob.into());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type, "artifactType": artifact_type,
        "config": empty, "layers": [layer],
        "subject": { "mediaType": subject.media_type, "digest": subject.digest, "size": subject.size },
    });
    add_manifest(origin, repository, None, media_type, &manifest)
}

struct Layer {
    tar_gz: Vec<u8>,
    diff_id: String,
}

/// One file of pseudo-random bytes in a tar.gz.
fn layer(spec: &ImageSpec, number: u64, file_bytes: usize) -> Layer {
    let file = bytes_at(mix(spec.seed).wrapping_add(number), 0, file_bytes);
    let mut header = tar::Header::new_gnu();
    header.set_size(file.len() as u64);
    header.set_mode(0o755);
    header.set_mtime(0);
    let mut builder = tar::Builder::new(Vec::new());
    let name = format!("file-{number}");
    builder
        .append_data(&mut header, name, file.as_slice())
        .expect("writing to memory cannot fail");
    let tar = builder.into_inner().expect("writing to memory cannot fail");
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&tar).expect("writing to memory cannot fail");
    let tar_gz = encoder.finish().expect("writing to memory cannot fail");
    Layer {
        tar_gz,
        diff_id: sha256_of(&tar),
    }
}

fn add_blob(origin: &Origin, repository: &str, media_type: &str, bytes: Vec<u8>) -> Descriptor {
    let size = bytes.len() as u64;
    let digest = origin.add_blob(repository, bytes);
    Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        platform: None,
    }
}

fn add_manifest(
    origin: &Origin,
    repository: &str,
    tag: Option<&str>,
    media_type: &str,
    manifest: &serde_json::Value,
) -> Descriptor {
    let bytes = manifest.to_string().into_bytes();
    let size = bytes.len() as u64;
    let digest = origin.add_manifest(repository, tag, media_type, bytes);
    Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        platform: None,
    }
}

fn reference(host: &str, repository: &str, tag: Option<&str>, digest: &str) -> String {
    match tag {
        Some(tag) => format!("{host}/{repository}:{tag}"),
        None => format!("{host}/{repository}@{digest}"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::client;

    #[tokio::test]
    async fn an_image_is_whole_and_unpacks() {
        for flavour in [Flavour::Oci, Flavour::Docker] {
            let origin = Origin::new();
            let spec = ImageSpec::new(1, &[1000, 300_000]).flavour(flavour);
            let image = add_image(&origin, "a/b", Some("v1"), &spec);
            let running = origin.spawn_on_loopback().await.unwrap();
            let manifest = client::get(running.addr, "/v2/a/b/manifests/v1", &[])
                .await
                .unwrap();
            assert_eq!(manifest.body_digest(), image.manifest.digest);
            assert_eq!(manifest.header("content-type"), Some(flavour.manifest_type()));
            let manifest: serde_json::Value = serde_json::from_slice(&manifest.body).unwrap();
            assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
            let blob = async |blob: &Descriptor| {
                let path = format!("/v2/a/b/blobs/{}", blob.digest);
                let answer = client::get(running.addr, &path, &[]).await.unwrap();
                assert_eq!(
                    (answer.body_digest(), answer.body.len() as u64),
                    (blob.digest.clone(), blob.size)
                );
                answer.body
            };
            let config: serde_json::Value = serde_json::from_slice(&blob(&image.config).await).unwrap();
            for (number, layer) in image.layers.iter().enumerate() {
                let mut tar = Vec::new();
                flate2::read::GzDecoder::new(&blob(layer).await[..])
                    .read_to_end(&mut tar)
                    .unwrap();
                assert_eq!(config["rootfs"]["diff_ids"][number], sha256_of(&tar));
                let mut archive = tar::Archive::new(&tar[..]);
                let sizes: Vec<_> = archive
                    .entries()
                    .unwrap()
                    .map(|entry| entry.unwrap().size())
                    .collect();
                assert_eq!(sizes, [spec.layers[number] as u64]);
            }
        }
    }

    #[test]
    fn equal_specs_give_equal_images_and_seeds_differ() {
        let build = |seed| add_image(&Origin::new(), "a", Some("t"), &ImageSpec::new(seed, &[10, 10]));
        assert_eq!(build(1), build(1));
        assert_ne!(build(1).layers, build(2).layers);
        assert_ne!(build(1).layers[0], build(1).layers[1]);
        assert_eq!(build(1).reference("h:1"), "h:1/a:t");
        assert_eq!(build(1).blobs().count(), 3);
    }

    #[tokio::test]
    async fn an_index_has_its_platforms_and_referrers_are_found() {
        let origin = Origin::new();
        let arm = ImageSpec::new(2, &[5]).platform(Platform::linux("arm64"));
        let index = add_index(&origin, "multi", "latest", &[ImageSpec::new(1, &[5]), arm]);
        let signature = add_referrer(
            &origin,
            "multi",
            &index.index,
            "application/x-signature",
            "signed",
        );
        let running = origin.spawn_on_loopback().await.unwrap();
        let answer = client::get(running.addr, "/v2/multi/manifests/latest", &[])
            .await
            .unwrap();
        let parsed: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(parsed["manifests"][1]["platform"]["architecture"], "arm64");
        let path = format!("/v2/multi/manifests/{}", index.images[1].manifest.digest);
        assert_eq!(client::get(running.addr, &path, &[]).await.unwrap().status, 200);
        let list = async |query: &str| {
            let path = format!("/v2/multi/referrers/{}{query}", index.index.digest);
            let answer = client::get(running.addr, &path, &[]).await.unwrap();
            let parsed: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            parsed["manifests"].as_array().unwrap().clone()
        };
        let all = list("").await;
        assert_eq!(all.len(), 1);
        assert_eq!(all[0]["digest"], signature.digest);
        assert_eq!(all[0]["artifactType"], "application/x-signature");
        assert!(list("?artifactType=application/other").await.is_empty());
        origin.set_referrers_supported(false);
        let path = format!("/v2/multi/referrers/{}", index.index.digest);
        assert_eq!(client::get(running.addr, &path, &[]).await.unwrap().status, 404);
    }
}
