//! The image that is converted: its manifest, its configuration, its layers.

use std::fmt;
use std::str::FromStr;

use darter_types::{Digest, ManifestReference};
use serde::Deserialize;
use serde_json::Value;

use super::error::ConvertError;
use super::source::Source;
use crate::image::{self, Descriptor, NydusImage};

/// Longest configuration that is read.
const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// Most layers of an image: overlayfs has fewer.
const LAYERS_MAX: usize = 1024;

/// The kind of machine that an image is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// As Go names it.
    pub architecture: String,
    /// Its variant, or nothing.
    pub variant: String,
}

impl Platform {
    /// This machine's.
    pub fn here() -> Self {
        Self {
            architecture: image::architecture(),
            variant: String::new(),
        }
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix("linux/").unwrap_or(text);
        let (architecture, variant) = text.split_once('/').unwrap_or((text, ""));
        let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if architecture.is_empty() || !plain(architecture) || !plain(variant) {
            return Err("write it as linux/amd64 or linux/arm/v7".to_owned());
        }
        Ok(Self {
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.architecture)?;
        if self.variant.is_empty() {
            return Ok(());
        }
        write!(f, "/{}", self.variant)
    }
}

/// An ordinary layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// The image as its registry has it.
#[derive(Debug)]
pub(super) struct Original {
    pub(super) digest: Digest,
    /// What an index or a referrer says of it.
    pub(super) descriptor: Value,
    pub(super) config: Vec<u8>,
    pub(super) layers: Vec<Layer>,
    pub(super) platform: Platform,
    /// The index that it was found in.
    pub(super) index: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    media_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Value>,
}

#[derive(Deserialize)]
struct Config {
    architecture: String,
    #[serde(default)]
    variant: String,
}

fn wrong(reason: impl Into<String>) -> ConvertError {
    ConvertError::Manifest(reason.into())
}

fn content(descriptor: &Descriptor) -> Result<Layer, ConvertError> {
    let digest = descriptor.digest.parse();
    Ok(Layer {
        digest: digest.map_err(|error| wrong(format!("{error}")))?,
        size: descriptor.size,
    })
}

impl Original {
    /// The image that a reference stands for; of an index the one for `platform`.
    pub(super) async fn find(
        reference: &ManifestReference,
        source: &Source,
        platform: &Platform,
    ) -> Result<Self, ConvertError> {
        let bytes = source.manifest(reference).await?;
        let document: Value = serde_json::from_slice(&bytes)?;
        if document.get("manifests").is_none() {
            return Self::read(&bytes, None, source).await;
        }
        let chosen = choose(&document, platform)?;
        let bytes = source.manifest(&ManifestReference::Digest(chosen)).await?;
        Self::read(&bytes, Some(document), source).await
    }

    async fn read(bytes: &[u8], index: Option<Value>, source: &Source) -> Result<Self, ConvertError> {
        let manifest: Manifest = serde_json::from_slice(bytes)?;
        if NydusImage::recognise(&manifest.layers).is_ok() {
            return Err(wrong("it is a Nydus image already"));
        }
        if manifest.layers.is_empty() || manifest.layers.len() > LAYERS_MAX {
            return Err(wrong(format!("it has {} layers", manifest.layers.len())));
        }
        let layers = manifest.layers.iter().map(content).collect::<Result<_, _>>()?;
        let config = content(&manifest.config)?;
        if config.size > CONFIG_BYTES_MAX {
            return Err(wrong(format!("its configuration has {} bytes", config.size)));
        }
        let config_bytes = source.bytes(&config.digest, config.size).await?;
        let said: Config = serde_json::from_slice(&config_bytes)?;
        let platform = Platform {
            architecture: said.architecture,
            variant: said.variant,
        };
        let digest = Digest::of(darter_types::Algorithm::Sha256, bytes);
        let media_type = if manifest.media_type.is_empty() {
            super::manifest::MANIFEST
        } else {
            &manifest.media_type
        };
        let descriptor = serde_json::json!({
            "mediaType": media_type,
            "digest": digest.to_string(),
            "size": bytes.len(),
        });
        Ok(Self {
            digest,
            descriptor,
            config: config_bytes.to_vec(),
            layers,
            platform,
            index,
        })
    }
}

/// The ordinary image for a platform.
fn choose(index: &Value, platform: &Platform) -> Result<Digest, ConvertError> {
    let index = Index::deserialize(index)?;
    let mut seen = Vec::new();
    for entry in &index.manifests {
        let descriptor = Descriptor::deserialize(entry)?;
        let of = &descriptor.platform;
        let variant = entry.pointer("/platform/variant").and_then(Value::as_str);
        let fits = of.os == "linux"
            && of.architecture == platform.architecture
            && (platform.variant.is_empty() || variant == Some(&platform.variant));
        if fits && !descriptor.is_nydus_variant() {
            return Ok(content(&descriptor)?.digest);
        }
        seen.push(format!("{}/{}", of.os, of.architecture));
    }
    Err(wrong(format!(
        "it has no variant for {platform}, but for {}",
        seen.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_as_they_are_written() {
        for (text, whole) in [
            ("linux/amd64", "linux/amd64"),
            ("arm/v7", "linux/arm/v7"),
            ("arm64", "linux/arm64"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), whole);
        }
        for wrong in ["", "linux/", "windows/amd64/x/y", "a b"] {
            assert!(wrong.parse::<Platform>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn of_an_index_the_ordinary_image_of_the_platform_is_taken() {
        let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let entry = |digit: &str, architecture: &str, features: &[&str]| {
            serde_json::json!({ "digest": digest(digit), "size": 1, "platform": {
                "os": "linux", "architecture": architecture, "os.features": features,
            }})
        };
        let nydus = ["nydus.remoteimage.v1"];
        let index = serde_json::json!({ "manifests": [
            entry("a", "amd64", &nydus), entry("b", "arm64", &[]), entry("c", "amd64", &[]),
        ]});
        let chosen = |platform: &str| choose(&index, &platform.parse().unwrap());
        assert_eq!(chosen("linux/amd64").unwrap().to_string(), digest("c"));
        assert_eq!(chosen("linux/arm64").unwrap().to_string(), digest("b"));
        let none = chosen("linux/s390x").unwrap_err().to_string();
        assert!(
            none.contains("linux/s390x") && none.contains("linux/arm64"),
            "{none}"
        );
        assert!(chosen("linux/arm64/v9").is_err());
    }
}
