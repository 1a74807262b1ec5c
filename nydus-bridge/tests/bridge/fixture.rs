//! Images, made by Nydus's own builder from a folder or from an ordinary layer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use nydus_builder::attributes::Attributes;
use nydus_builder::{
    ArtifactStorage, BlobManager, BootstrapManager, BuildContext, Builder, ConversionType, DirectoryBuilder,
    Features, Prefetch, TarballBuilder, WhiteoutSpec,
};
use nydus_rafs::metadata::RafsVersion;
use nydus_storage::device::BlobFeatures;
use nydus_storage::meta::BatchContextGenerator;
use nydus_utils::{compress, digest};
use tempfile::TempDir;

/// Small, so that files have several chunks.
const CHUNK_BYTES: u32 = 1 << 20;
const BATCH_BYTES: u32 = 256 << 10;

/// What kind of image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) version: RafsVersion,
    pub(crate) compressor: compress::Algorithm,
    pub(crate) packing: Packing,
}

/// How its chunks are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Single,
    Batch,
    /// It refers to an ordinary layer.
    Zran,
}

/// The kinds that each test of contents goes through.
pub(crate) fn kinds() -> Vec<Kind> {
    let mut kinds = Vec::new();
    for version in [RafsVersion::V5, RafsVersion::V6] {
        for compressor in [
            compress::Algorithm::None,
            compress::Algorithm::Lz4Block,
            compress::Algorithm::Zstd,
        ] {
            kinds.push(Kind {
                version,
                compressor,
                packing: Packing::Single,
            });
        }
    }
    kinds.push(V6_BATCH);
    kinds.push(V6_ZRAN);
    kinds
}

pub(crate) const V5: Kind = Kind {
    version: RafsVersion::V5,
    compressor: compress::Algorithm::Lz4Block,
    packing: Packing::Single,
};
pub(crate) const V6: Kind = Kind {
    version: RafsVersion::V6,
    compressor: compress::Algorithm::Zstd,
    packing: Packing::Single,
};
pub(crate) const V6_BATCH: Kind = Kind {
    packing: Packing::Batch,
    ..V6
};
pub(crate) const V6_ZRAN: Kind = Kind {
    compressor: compress::Algorithm::GZip,
    packing: Packing::Zran,
    ..V6
};

/// An image in a folder.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) bootstrap: PathBuf,
    /// The folder with its blobs.
    pub(crate) blobs: PathBuf,
    dir: TempDir,
}

impl Built {
    /// A place for an image that comes from elsewhere.
    pub(crate) fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (bootstrap, blobs) = (PathBuf::new(), dir.path().join("blobs"));
        Self {
            bootstrap,
            blobs,
            dir,
        }
    }

    /// The same with the metadata of an image.
    pub(crate) fn with(self, bootstrap: &Path) -> Self {
        Self {
            bootstrap: bootstrap.to_owned(),
            ..self
        }
    }

    /// A folder for what is kept of it.
    pub(crate) fn cache(&self) -> PathBuf {
        let cache = self.dir.path().join("cache");
        fs::create_dir_all(&cache).unwrap();
        cache
    }

    /// A directory to mount it at.
    pub(crate) fn mountpoint(&self) -> PathBuf {
        let point = self.dir.path().join("mnt");
        if fs::symlink_metadata(&point).is_err() {
            fs::create_dir(&point).unwrap();
        }
        point
    }
}

/// An image of the folder `tree`.
pub(crate) fn build(tree: &Path, kind: Kind) -> Built {
    let dir = tempfile::tempdir().unwrap();
    let blobs = dir.path().join("blobs");
    fs::create_dir(&blobs).unwrap();
    let bootstrap = dir.path().join("bootstrap");
    let source = match kind.packing {
        Packing::Zran => layer(tree, dir.path()),
        Packing::Single | Packing::Batch => tree.to_owned(),
    };
    let mut context = context(&source, &blobs, kind);
    let storage = ArtifactStorage::SingleFile(bootstrap.clone());
    let mut bootstraps = BootstrapManager::new(Some(storage), None);
    let mut manager = BlobManager::new(context.digester, false);
    let output = match kind.packing {
        Packing::Zran => {
            TarballBuilder::new(ConversionType::TargzToRef).build(&mut context, &mut bootstraps, &mut manager)
        }
        Packing::Single | Packing::Batch => {
            DirectoryBuilder::new().build(&mut context, &mut bootstraps, &mut manager)
        }
    };
    let output = output.unwrap();
    if kind.packing == Packing::Zran {
        // The blob that holds the bytes is the layer itself.
        fs::rename(&source, blobs.join(&output.blobs[0])).unwrap();
    }
    Built {
        bootstrap,
        blobs,
        dir,
    }
}

impl Built {
    /// Writes into the image's metadata that these files are to be fetched first. For the sixth version: its second
    /// superblock says where such a table is.
    pub(crate) fn wish(&self, inos: &[u64]) {
        const OFFSET: usize = 1024 + 128 + 40;
        let mut bytes = fs::read(&self.bootstrap).unwrap();
        let end = (bytes.len() as u64).to_le_bytes();
        let length = (4 * u32::try_from(inos.len()).unwrap()).to_le_bytes();
        bytes[OFFSET..OFFSET + 8].copy_from_slice(&end);
        bytes[OFFSET + 8..OFFSET + 12].copy_from_slice(&length);
        for ino in inos {
            bytes.extend(u32::try_from(*ino).unwrap().to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        fs::write(&self.bootstrap, bytes).unwrap();
    }
}

fn context(source: &Path, blobs: &Path, kind: Kind) -> BuildContext {
    let conversion = match kind.packing {
        Packing::Zran => ConversionType::TargzToRef,
        Packing::Single | Packing::Batch => ConversionType::DirectoryToRafs,
    };
    let hash = match kind.packing {
        Packing::Zran => digest::Algorithm::Sha256,
        Packing::Single | Packing::Batch => digest::Algorithm::Blake3,
    };
    let mut context = BuildContext::new(
        String::new(),
        kind.version.is_v6(),
        0,
        kind.compressor,
        hash,
        true,
        WhiteoutSpec::None,
        conversion,
        source.to_owned(),
        Prefetch::default(),
        Some(ArtifactStorage::FileDir((blobs.to_owned(), String::new()))),
        None,
        false,
        Features::default(),
        false,
        Attributes::default(),
    );
    context.set_fs_version(kind.version);
    context.set_chunk_size(CHUNK_BYTES);
    match kind.packing {
        Packing::Single => {}
        Packing::Batch => {
            let batches = BatchContextGenerator::new(BATCH_BYTES).unwrap();
            context.set_batch_size(BATCH_BYTES);
            context.blob_batch_generator = Some(Mutex::new(batches));
            context
                .blob_features
                .insert(BlobFeatures::BATCH | BlobFeatures::CHUNK_INFO_V2);
        }
        Packing::Zran => {
            context
                .blob_features
                .insert(BlobFeatures::SEPARATE | BlobFeatures::CHUNK_INFO_V2);
        }
    }
    context
}

/// The folder as an ordinary layer.
fn layer(tree: &Path, dir: &Path) -> PathBuf {
    let path = dir.join("layer.tar.gz");
    let mut tar = Command::new("tar");
    tar.args(["--create", "--gzip", "--format=pax", "--warning=none", "--file"]);
    let status = tar.arg(&path).arg("--directory").arg(tree).arg(".").status();
    assert!(status.unwrap().success());
    path
}
