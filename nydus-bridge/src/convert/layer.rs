//! One layer, made into metadata and a blob by Nydus's own builder; or, for a layer that is referred to, into metadata and
//! an index of places where unpacking can begin.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use darter_service::supervise::Tasks;
use darter_types::{Algorithm, Digest};
use nydus_builder::attributes::Attributes;
use nydus_builder::{
    ArtifactStorage, BlobManager, BootstrapManager, BuildContext, BuildOutput, Builder as _, ConversionType,
    Features, Prefetch, TarballBuilder, WhiteoutSpec,
};
use nydus_rafs::metadata::RafsVersion as Version;
use nydus_storage::device::BlobFeatures;
use nydus_utils::{compress, digest};

use super::archive::{self, Contents};
use super::error::ConvertError;
use super::manifest::Content;
use super::progress::LayerProgress;
use super::unpack::{self, Packed};
use super::{Compressor, Options};
use crate::image::RafsVersion;

/// Bytes that are given to the builder at once: what a pipe holds.
const PIPE_BYTES: usize = 64 << 10;

/// What a layer became.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) bootstrap: PathBuf,
    /// The blob that its files are read from; none, where it has no bytes.
    pub(super) blob_id: Option<String>,
    /// Folders that it does not list.
    pub(super) implied: BTreeSet<PathBuf>,
    /// What is pushed for it.
    pub(super) blob: Option<(PathBuf, Content)>,
}

/// Converts the layer in `layer`, with files in `folder`.
pub(super) async fn build(
    mut layer: File,
    digest: Digest,
    folder: &Path,
    options: &Options,
    (told, tasks): (&LayerProgress, &Tasks),
) -> Result<Built, ConvertError> {
    let wrong = |reason: String| ConvertError::Layer {
        layer: digest,
        reason,
    };
    let packed = unpack::packed(&mut layer)?;
    let run = Run {
        blobs: folder.join("blobs"),
        bootstrap: folder.join("bootstrap"),
        options: options.clone(),
    };
    fs::create_dir(&run.blobs)?;
    let (output, implied) = if options.refer {
        if packed != Packed::Gzip {
            let reason = "only layers that are compressed with gzip can be referred to";
            return Err(wrong(reason.to_owned()));
        }
        let (told, build) = (told.clone(), run.clone());
        let referring = tasks.blocking("conversion of a layer", move || {
            let contents = look(&mut layer, packed, &told)?;
            if let Some(reason) = contents.incomplete {
                anyhow::bail!("{reason}, so that it cannot be referred to");
            }
            let source = PathBuf::from(format!("/proc/self/fd/{}", layer.as_raw_fd()));
            Ok((build.run(source)?, contents.implied))
        });
        let broken = |_| Err(anyhow::anyhow!(unpack::BREAKS));
        referring.await.unwrap_or_else(broken)
    } else {
        let feed = |reader: &mut dyn Read, into| {
            let mut into = BufWriter::with_capacity(PIPE_BYTES, into);
            let contents = archive::complete(reader, &mut into)?;
            into.flush()?;
            Ok(contents.implied)
        };
        let reader = unpack::unpacked(layer, packed, told)?;
        let build = run.clone();
        unpack::piped(tasks, reader, feed, move |source| build.run(source)).await
    }
    .map_err(|error| wrong(format!("{error:#}")))?;
    Ok(Built {
        bootstrap: run.bootstrap,
        blob_id: output.blobs.first().cloned(),
        implied,
        blob: only(&run.blobs)?,
    })
}

/// Looks through a layer that the builder reads as it is.
fn look(layer: &mut File, packed: Packed, told: &LayerProgress) -> io::Result<Contents> {
    let contents = archive::complete(
        unpack::unpacked(layer.try_clone()?, packed, told)?,
        &mut io::sink(),
    )?;
    layer.rewind()?;
    Ok(contents)
}

/// Where the builder puts what it makes, and how it makes it.
#[derive(Clone)]
struct Run {
    blobs: PathBuf,
    bootstrap: PathBuf,
    options: Options,
}

impl Run {
    fn run(&self, source: PathBuf) -> anyhow::Result<BuildOutput> {
        let mut context = context(source, &self.options);
        context.blob_storage = Some(ArtifactStorage::FileDir((self.blobs.clone(), String::new())));
        let storage = ArtifactStorage::SingleFile(self.bootstrap.clone());
        let mut bootstraps = BootstrapManager::new(Some(storage), None);
        let mut manager = BlobManager::new(context.digester, false);
        TarballBuilder::new(context.conversion_type).build(&mut context, &mut bootstraps, &mut manager)
    }
}

/// What the builder is told.
pub(super) fn context(source: PathBuf, options: &Options) -> BuildContext {
    let version = match options.version {
        RafsVersion::V5 => Version::V5,
        RafsVersion::V6 => Version::V6,
    };
    let (conversion, compressor, hash) = if options.refer {
        (
            ConversionType::TargzToRef,
            compress::Algorithm::GZip,
            digest::Algorithm::Sha256,
        )
    } else {
        let compressor = match options.compressor {
            Compressor::Zstd => compress::Algorithm::Zstd,
            Compressor::Lz4 => compress::Algorithm::Lz4Block,
            Compressor::None => compress::Algorithm::None,
        };
        (ConversionType::TarToRafs, compressor, digest::Algorithm::Blake3)
    };
    let mut context = BuildContext::new(
        String::new(),
        version.is_v6(),
        0,
        compressor,
        hash,
        true,
        WhiteoutSpec::Oci,
        conversion,
        source,
        Prefetch::default(),
        None,
        None,
        false,
        Features::default(),
        false,
        Attributes::default(),
    );
    context.set_fs_version(version);
    context.set_chunk_size(options.chunk_bytes);
    if options.refer {
        context
            .blob_features
            .insert(BlobFeatures::SEPARATE | BlobFeatures::CHUNK_INFO_V2);
    }
    context
}

/// The one file that the builder left, which has its digest as its name. None, if the layer has no bytes.
fn only(folder: &Path) -> Result<Option<(PathBuf, Content)>, ConvertError> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(digest) = format!("{}:{name}", Algorithm::Sha256.as_str()).parse() else {
            continue;
        };
        let size = entry.metadata()?.len();
        if size > 0 {
            return Ok(Some((entry.path(), Content { digest, size })));
        }
    }
    Ok(None)
}
