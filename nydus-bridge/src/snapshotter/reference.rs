//! Which image a layer of Nydus metadata belongs to: its chunks are in that image's repository.
//!
//! CRI says it, in a label. `ctr` and nerdctl do not; then containerd is asked for the images of the namespace, and the one is taken
//! whose layers have the snapshot's chain. This happens when a container is made, as the image has its name in containerd by then.
//!
//! What must hold: at most one question at a time and image, with bounds on what is read; nothing is asked while containerd waits
//! for something that the answer needs.

mod containerd;

use std::path::PathBuf;
use std::time::Duration;

use darter_types::Digest;
use serde::Deserialize;
use thiserror::Error;
use tokio::time::timeout;

use super::catalog::{CRI_IMAGE, Labels};
use crate::image::ImageName;
use containerd::{Containerd, Described};

/// How long containerd may take to answer all of it.
const DEADLINE: Duration = Duration::from_secs(10);
/// Images that are looked at, and manifests in all of them.
const IMAGES_MAX: usize = 4096;
const MANIFESTS_MAX: usize = 16_384;
/// Indices within indices.
const DEPTH_MAX: usize = 3;
/// Under its own digest, CRI keeps a further name of each image, which names no registry.
const NAMELESS: &str = "sha256:";

/// Why it is not known which image it is.
#[derive(Clone, Debug, Error)]
pub enum ReferenceError {
    /// containerd cannot be asked.
    #[error(
        "containerd at {path} cannot be asked which image it is: {reason}; name its socket with --containerd"
    )]
    Containerd {
        /// Its socket.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// None fits.
    #[error("no image in the containerd namespace {namespace:?} has the layers {chain}")]
    Unknown {
        /// Where it was looked for.
        namespace: String,
        /// What was looked for.
        chain: String,
    },
    /// The name of the snapshot is none that containerd gives.
    #[error("{0:?} is not in the form namespace/number/chain, so that its image cannot be found")]
    Name(String),
}

/// Finds the names of images.
#[derive(Debug)]
pub struct References {
    socket: PathBuf,
    containerd: Containerd,
    one: tokio::sync::Mutex<()>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Option<Content>,
    manifests: Option<Vec<Content>>,
}

#[derive(Deserialize)]
struct Content {
    digest: String,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// The image that a label names.
pub fn labelled(labels: &Labels) -> Option<ImageName> {
    labels.get(CRI_IMAGE)?.parse().ok()
}

impl References {
    /// Asks the containerd at this socket, when it is needed.
    pub fn new(socket: PathBuf) -> Self {
        Self {
            containerd: Containerd::new(socket.clone()),
            socket,
            one: tokio::sync::Mutex::default(),
        }
    }

    /// The image whose layers are the chain of the snapshot `name`.
    ///
    /// # Errors
    /// containerd does not answer, or has no such image.
    pub async fn find(&self, name: &str) -> Result<ImageName, ReferenceError> {
        let (namespace, chain) = parts(name).ok_or_else(|| ReferenceError::Name(name.to_owned()))?;
        let asked = timeout(DEADLINE, async {
            let _one = self.one.lock().await;
            self.search(namespace, chain).await
        });
        let found = asked
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {DEADLINE:?}")));
        let found = found.map_err(|reason| ReferenceError::Containerd {
            path: self.socket.clone(),
            reason,
        })?;
        found.ok_or_else(|| ReferenceError::Unknown {
            namespace: namespace.to_owned(),
            chain: chain.to_owned(),
        })
    }

    async fn search(&self, namespace: &str, chain: &str) -> Result<Option<ImageName>, String> {
        let (images, mut manifests) = (self.containerd.images(namespace).await?, 0);
        for image in images.into_iter().take(IMAGES_MAX) {
            let named = Some(image.name).filter(|name| !name.starts_with(NAMELESS));
            let Some(Ok(name)) = named.map(|name| name.parse::<ImageName>()) else {
                continue;
            };
            let mut open = vec![(image.target, 0)];
            while let Some((target, depth)) = open.pop() {
                manifests += 1;
                if manifests > MANIFESTS_MAX {
                    return Ok(None);
                }
                // Of other machines' variants there is only the index.
                let Some(manifest) = self.read::<Manifest>(namespace, &target).await? else {
                    continue;
                };
                let config = manifest.config.map(|config| config.digest);
                let below = manifest.manifests.unwrap_or_default();
                if depth < DEPTH_MAX {
                    open.extend(below.into_iter().map(|one| (one.digest, depth + 1)));
                }
                let Some(config) = config else { continue };
                let config = self.read::<Config>(namespace, &config).await?;
                if config.is_some_and(|config| chains(&config.rootfs.diff_ids).any(|one| one == chain)) {
                    return Ok(Some(name));
                }
            }
        }
        Ok(None)
    }

    /// A content as JSON; `None` if it is not there, or something else.
    async fn read<T: serde::de::DeserializeOwned>(
        &self,
        namespace: &str,
        digest: &str,
    ) -> Result<Option<T>, String> {
        let bytes = self.containerd.read(namespace, digest).await?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }
}

impl Described {
    fn new(name: String, target: String) -> Self {
        Self { name, target }
    }
}

/// Namespace and chain in the name of a committed snapshot: `k8s.io/17/sha256:...`.
fn parts(name: &str) -> Option<(&str, &str)> {
    let (namespace, rest) = name.split_once('/')?;
    let (number, chain) = rest.split_once('/')?;
    // One that was left out when it was fetched has the name of its unpacking.
    let chain = chain.rsplit(' ').next()?;
    (number.parse::<u64>().is_ok() && chain.contains(':')).then_some((namespace, chain))
}

/// The chains of layers, from the lowest one up: each is the digest of the chain below and of the layer's own.
fn chains(layers: &[String]) -> impl Iterator<Item = String> {
    layers.iter().scan(None::<String>, |below, layer| {
        let chain = match below {
            None => layer.clone(),
            Some(below) => Digest::of(
                darter_types::Algorithm::Sha256,
                format!("{below} {layer}").as_bytes(),
            )
            .to_string(),
        };
        *below = Some(chain.clone());
        Some(chain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_containerds() {
        let layers = ["sha256:6a".to_owned(), "sha256:6b".to_owned()];
        let chains: Vec<String> = chains(&layers).collect();
        let both = Digest::of(darter_types::Algorithm::Sha256, b"sha256:6a sha256:6b").to_string();
        assert_eq!(chains, ["sha256:6a".to_owned(), both]);
    }

    #[test]
    fn names_are_taken_apart() {
        assert_eq!(parts("k8s.io/7/sha256:12"), Some(("k8s.io", "sha256:12")));
        assert_eq!(
            parts("default/8/extract-12-ab sha256:12"),
            Some(("default", "sha256:12"))
        );
        for other in ["sha256:12", "k8s.io/x/sha256:12", "k8s.io/7/container", ""] {
            assert_eq!(parts(other), None, "{other}");
        }
    }

    #[test]
    fn the_label_of_cri_names_the_image() {
        let labels = |value: &str| [(CRI_IMAGE.to_owned(), value.to_owned())].into();
        assert_eq!(
            labelled(&labels("r.example/a/b:c")).unwrap().to_string(),
            "r.example/a/b:c"
        );
        assert!(labelled(&labels("../x")).is_none());
        assert!(labelled(&Labels::new()).is_none());
    }
}
