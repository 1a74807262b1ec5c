//! Ordinary images made into Nydus images: each layer becomes a blob, or is referred to as it is, and one bootstrap shows
//! all of them merged.
//!
//! [`convert`] finds the image (`original`), reads its layers through the mirror or from the registry (`source`), makes a
//! blob of each (`layer`, fed by `unpack` and `archive`), merges what they hold into one bootstrap (`merge`, `overlay`), writes the manifest
//! (`manifest`), and puts everything into the registry (`registry`). `progress` tells how far it is.
//!
//! What must hold: only bytes that fit their digest are converted; what is on disk is bounded by [`LAYERS_AT_ONCE`] layers
//! with their blobs, and removed in any case; pushes go to the registry itself; what the registry has is not sent again, and
//! an image that was made of the same one with the same options is not made again: the builder puts extended attributes in
//! any order, so that it would not be the same.

mod archive;
mod error;
mod layer;
mod manifest;
mod merge;
mod original;
mod overlay;
mod progress;
mod registry;
mod source;
mod unpack;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use darter_service::supervise::Tasks;
use darter_types::{Algorithm, Digest, ManifestReference};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use self::manifest::{Blob, Content, Metadata};
use self::merge::Part;
use self::original::{Layer, Original};
use crate::image::{ImageName, RafsVersion};

pub use archive::fuzz_archive;
pub use error::ConvertError;
pub use original::Platform;
pub use progress::{LayerProgress, Progress, Stage};
pub use registry::{Access, Registry};
pub use source::Source;

/// Layers that are converted at the same time, each on a thread of its own.
const LAYERS_AT_ONCE: usize = 2;
/// Shortest chunk; the format counts in pages.
const CHUNK_BYTES_MIN: u32 = 4096;
/// Longest chunk that readers take.
const CHUNK_BYTES_MAX: u32 = 16 << 20;

/// Part of what images say of how they were made: goes up when something else is made of the same.
const WAY: u32 = 2;

/// How chunks are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compressor {
    /// Small, and fast enough to read.
    Zstd,
    /// Larger, and faster to read.
    Lz4,
    /// As they are.
    None,
}

/// How the new image is found beside the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// By its own name alone.
    Alone,
    /// By its own name, and as a referrer of the original.
    Referrer,
    /// As one more manifest of an index that has the original as well.
    Index,
}

/// What is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// The version of the metadata.
    pub version: RafsVersion,
    /// How chunks are compressed.
    pub compressor: Compressor,
    /// Bytes of a chunk: a power of two.
    pub chunk_bytes: u32,
    /// Leaves the layers as they are, and makes nothing but an index into each.
    pub refer: bool,
    /// Where the new image is put.
    pub place: Place,
    /// Which of an index's images is converted.
    pub platform: Platform,
    /// Where layers are while they are converted.
    pub folder: PathBuf,
}

/// A converted image, in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// Digest of the image's manifest.
    pub manifest: Digest,
    /// Digest of what the target's name stands for: the manifest, or the index with it.
    pub target: Digest,
    /// Bytes of its blobs and metadata.
    pub bytes: u64,
    /// How many of them the registry did not have before.
    pub pushed: u64,
}

impl Options {
    /// What the new image's manifest says of itself: what it was made of, and how.
    fn mark(&self, original: &Digest) -> String {
        let Self {
            version,
            compressor,
            chunk_bytes,
            refer,
            place,
            ..
        } = self;
        let how = if *refer {
            "refer".to_owned()
        } else {
            format!("{compressor:?}").to_lowercase()
        };
        let subject = if *place == Place::Referrer { " subject" } else { "" };
        format!("{original} {version:?} {how} {chunk_bytes}{subject} {WAY}")
    }

    fn check(&self, from: &ImageName, to: &ImageName) -> Result<(), ConvertError> {
        let chunk = self.chunk_bytes;
        if !chunk.is_power_of_two() || !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk) {
            return Err(ConvertError::ChunkSize(chunk));
        }
        if self.refer && self.version == RafsVersion::V5 {
            return Err(ConvertError::ReferV5);
        }
        let beside = from.registry == to.registry && from.repository == to.repository;
        if !beside && (self.refer || self.place != Place::Alone) {
            return Err(ConvertError::OtherRepository);
        }
        if from.reference == to.reference && beside && self.place != Place::Index {
            return Err(ConvertError::SameName);
        }
        Ok(())
    }
}

/// Converts the image `from`, read from `source`, and puts it into `registry` under the name `to`.
///
/// # Errors
/// See [`ConvertError`]. What was pushed before stays: the next attempt does not send it again.
pub async fn convert(
    (from, source): (&ImageName, &Source),
    (to, registry): (&ImageName, &Registry),
    options: &Options,
    progress: &Arc<Progress>,
    tasks: &Tasks,
) -> Result<Converted, ConvertError> {
    options.check(from, to)?;
    let original = Original::find(&from.reference, source, &options.platform).await?;
    let mark = options.mark(&original.digest);
    let earlier = registry.made_before(&to.reference, &mark).await?;
    progress.begin(original.layers.iter().map(|layer| layer.size));
    let work = tempfile::Builder::new()
        .prefix("convert-")
        .tempdir_in(&options.folder)?;
    let job = Job {
        source,
        registry,
        options,
        progress,
        tasks,
        work: work.path(),
    };
    let made = match earlier {
        Some(manifest) => Made { manifest, pushed: 0 },
        None => {
            let layers: Vec<_> = stream::iter(original.layers.iter().enumerate())
                .map(|(number, layer)| job.layer(number, layer))
                .buffered(LAYERS_AT_ONCE)
                .try_collect()
                .await?;
            job.finish(&original, layers, &mark).await?
        }
    };
    let manifest = Digest::of(Algorithm::Sha256, &made.manifest);
    let bytes = manifest::bytes(&made.manifest);
    Ok(Converted {
        manifest,
        target: job.publish(to, &original, manifest, made.manifest).await?,
        bytes,
        pushed: made.pushed,
    })
}

/// A manifest whose contents are in the registry.
struct Made {
    manifest: Vec<u8>,
    pushed: u64,
}

/// A conversion while it runs.
struct Job<'a> {
    source: &'a Source,
    registry: &'a Registry,
    options: &'a Options,
    progress: &'a Arc<Progress>,
    tasks: &'a Tasks,
    work: &'a Path,
}

/// A layer that is done.
struct Done {
    /// The metadata of this layer alone.
    part: Part,
    blob: Option<Blob>,
    pushed: u64,
}

impl Job<'_> {
    /// Fetches, converts and pushes one layer. Of it stays the bootstrap.
    async fn layer(&self, number: usize, layer: &Layer) -> Result<Done, ConvertError> {
        let folder = tempfile::Builder::new().prefix("layer-").tempdir_in(self.work)?;
        let told = self.progress.layer(number);
        told.enter(Stage::Fetching);
        let fetched = self.source.fetch(layer, folder.path(), &told).await?;
        told.enter(Stage::Converting);
        let shown = (&told, self.tasks);
        let built = layer::build(fetched, layer.digest, folder.path(), self.options, shown).await?;
        let bootstrap = self.work.join(format!("bootstrap-{number}"));
        std::fs::rename(&built.bootstrap, &bootstrap)?;
        let mut done = Done {
            part: Part {
                bootstrap,
                blob_id: built.blob_id,
                implied: built.implied,
            },
            blob: None,
            pushed: 0,
        };
        if let Some((path, content)) = built.blob {
            told.enter(Stage::Pushing);
            done.pushed = self.registry.push_file(&content, &path, &told).await?;
            done.blob = Some(Blob {
                content,
                refers: self.options.refer.then_some(layer.digest),
            });
        }
        told.enter(Stage::Done);
        Ok(done)
    }

    /// Merges the layers' metadata and pushes what is left but the manifest.
    async fn finish(&self, original: &Original, layers: Vec<Done>, mark: &str) -> Result<Made, ConvertError> {
        let mut pushed: u64 = layers.iter().map(|layer| layer.pushed).sum();
        let (parts, contents): (Vec<_>, Vec<_>) =
            layers.into_iter().map(|layer| (layer.part, layer.blob)).unzip();
        let (work, options) = (self.work.to_owned(), self.options.clone());
        let merging = self.tasks.blocking("merging of bootstraps", move || {
            merge::merge(&parts, &work, &options)
        });
        let (path, bootstrap, diff_id) = merging.await.map_err(|_| ConvertError::MergePanicked)??;
        let mut blobs: Vec<Blob> = Vec::new();
        for blob in contents.into_iter().flatten() {
            if !blobs.iter().any(|known| known.content == blob.content) {
                blobs.push(blob);
            }
        }
        let told = LayerProgress::default();
        pushed += self.registry.push_file(&bootstrap, &path, &told).await?;
        let metadata = Metadata {
            bootstrap,
            diff_id,
            version: self.options.version,
        };
        let config = manifest::config(&original.config, &blobs, &metadata)?;
        let config_content = Content::of(&config);
        pushed += self.registry.push_bytes(&config_content, config).await?;
        let subject = (self.options.place == Place::Referrer).then_some(&original.descriptor);
        let manifest = manifest::manifest(config_content, &blobs, &metadata, (mark, subject));
        Ok(Made { manifest, pushed })
    }

    /// Gives the manifest its name; the digest of what has that name now.
    async fn publish(
        &self,
        to: &ImageName,
        original: &Original,
        digest: Digest,
        manifest: Vec<u8>,
    ) -> Result<Digest, ConvertError> {
        let entry = manifest::entry(digest, manifest.len(), &original.platform);
        if self.options.place != Place::Index {
            let listed = self
                .registry
                .push_manifest(&to.reference, manifest::MANIFEST, manifest)
                .await?;
            if self.options.place == Place::Referrer && !listed {
                self.registry.refer(&original.digest, entry).await?;
            }
            return Ok(digest);
        }
        let by_digest = ManifestReference::Digest(digest);
        self.registry
            .push_manifest(&by_digest, manifest::MANIFEST, manifest)
            .await?;
        // Read now, not when the work began: others may have added theirs meanwhile.
        let known = self.registry.existing(&to.reference).await?;
        let index = manifest::index(known.as_deref(), original, entry)?;
        let target = Digest::of(Algorithm::Sha256, &index);
        self.registry
            .push_manifest(&to.reference, manifest::INDEX, index)
            .await?;
        Ok(target)
    }
}
