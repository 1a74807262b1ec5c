//! The table of blobs: what can be mounted, and how each is packed.

use std::sync::Arc;

use nydus_storage::device::{BlobFeatures, BlobInfo};
use nydus_utils::{compress, crypt, digest};

use crate::fs::chunk::{Blob, Compressor, Hash, Packing};
use crate::fs::error::{FsError, guarded};

/// Most blobs of one image: the format numbers them with 16 bits, images have hundreds at most.
const BLOBS_MAX: usize = 4096;

/// The blobs of an image, or why it cannot be mounted.
pub(super) fn table(infos: &[Arc<BlobInfo>]) -> Result<Vec<Blob>, FsError> {
    if infos.len() > BLOBS_MAX {
        return Err(FsError::damaged(format!("it has {} blobs", infos.len())));
    }
    infos.iter().map(|info| blob(info)).collect()
}

fn blob(info: &BlobInfo) -> Result<Blob, FsError> {
    if info.cipher() != crypt::Algorithm::None || info.has_feature(BlobFeatures::ENCRYPTED) {
        return Err(FsError::Unsupported("encrypted blobs"));
    }
    if info.has_feature(BlobFeatures::TARFS) || info.is_external() {
        return Err(FsError::Unsupported("blobs that have no digests of chunks"));
    }
    if info.is_legacy_stargz() {
        return Err(FsError::Unsupported("eStargz blobs"));
    }
    let id = guarded(|| Ok(info.blob_id()))?;
    let digest = format!("sha256:{id}").parse();
    Ok(Blob {
        digest: digest.map_err(|_| FsError::damaged(format!("blob {id:?} has no digest for a name")))?,
        length: info.compressed_size(),
        packing: packing(info),
        compressor: match info.compressor() {
            compress::Algorithm::None => Compressor::None,
            compress::Algorithm::Lz4Block => Compressor::Lz4,
            compress::Algorithm::GZip => Compressor::Gzip,
            compress::Algorithm::Zstd => Compressor::Zstd,
        },
        hash: match info.digester() {
            digest::Algorithm::Blake3 => Hash::Blake3,
            digest::Algorithm::Sha256 => Hash::Sha256,
        },
    })
}

fn packing(info: &BlobInfo) -> Packing {
    if info.has_feature(BlobFeatures::ZRAN) {
        Packing::Zran
    } else if info.has_feature(BlobFeatures::BATCH) {
        Packing::Batch
    } else {
        Packing::Single
    }
}
