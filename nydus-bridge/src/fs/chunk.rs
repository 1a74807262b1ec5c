//! Chunks, and the units in which they are packed.
//!
//! A *chunk* is what a bootstrap names and gives a digest for: some bytes of a file. A *unit* is what a blob is unpacked
//! by. Mostly a unit holds one chunk; small chunks may share one (a *batch*), and an image that refers to an ordinary
//! layer has the stretches between the layer's restart points as units (*zran*).

use darter_types::{ByteRange, Digest};

/// Longest chunk, packed or not: the format's own limit.
pub(super) const CHUNK_BYTES_MAX: u64 = 16 << 20;

/// How the chunks of a blob are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Each chunk is a unit.
    Single,
    /// Small chunks share units.
    Batch,
    /// Units are stretches of a gzip stream.
    Zran,
}

/// A compressor that a blob may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compressor {
    None,
    Lz4,
    Gzip,
    Zstd,
}

/// A hash that proves chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Blake3,
    Sha256,
}

/// A blob of an image.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    /// The layer that holds it.
    pub(super) digest: Digest,
    /// Length of its packed chunks together; 0 if the bootstrap does not tell.
    pub(super) length: u64,
    pub(super) packing: Packing,
    pub(super) compressor: Compressor,
    pub(super) hash: Hash,
}

/// Names a chunk within an image: its blob's place in the image's table, and where it begins in the unpacked blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ChunkKey {
    pub(super) blob: u32,
    pub(super) start: u64,
}

/// A chunk as the bootstrap describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Place of its blob in the image's table.
    pub(super) blob: u32,
    /// Its number in the blob.
    pub(super) index: u32,
    /// Where it is in the blob. Without meaning if it shares its unit.
    pub(super) packed: ByteRange,
    /// Where it is in the unpacked blob.
    pub(super) plain: ByteRange,
    pub(super) compressed: bool,
    pub(super) digest: [u8; 32],
}

impl Chunk {
    pub(super) fn key(&self) -> ChunkKey {
        ChunkKey {
            blob: self.blob,
            start: self.plain.start,
        }
    }
}

/// Names a unit within an image: its blob's place in the image's table, and where it begins in the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct UnitKey {
    pub(super) blob: u32,
    pub(super) start: u64,
    /// Of a unit with one chunk: what proves it. A damaged bootstrap may describe several at one place.
    pub(super) digest: Option<[u8; 32]>,
}

/// How a unit's bytes become those of its chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// They are.
    Stored,
    /// By the blob's compressor.
    Compressed,
    /// By the restart point of this number.
    Zran(u32),
}

/// What a blob is unpacked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) blob: u32,
    /// Where it is in the blob.
    pub(super) packed: ByteRange,
    /// Its length when it is unpacked.
    pub(super) length: u32,
    pub(super) form: Form,
}

/// A chunk in its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) chunk: Chunk,
    pub(super) unit: Unit,
    /// Where the chunk begins in the unpacked unit.
    pub(super) at: u32,
}

impl Placed {
    /// A chunk that is a unit of its own.
    pub(super) fn single(chunk: Chunk) -> Self {
        let form = if chunk.compressed {
            Form::Compressed
        } else {
            Form::Stored
        };
        Self {
            chunk,
            unit: Unit {
                blob: chunk.blob,
                packed: chunk.packed,
                // No chunk is longer than CHUNK_BYTES_MAX.
                length: u32::try_from(chunk.plain.len()).unwrap_or(u32::MAX),
                form,
            },
            at: 0,
        }
    }

    /// The name of its unit.
    pub(super) fn key(&self) -> UnitKey {
        UnitKey {
            blob: self.unit.blob,
            start: self.unit.packed.start,
            digest: self.is_single().then_some(self.chunk.digest),
        }
    }

    /// Whether the chunk has the unit for itself.
    pub(super) fn is_single(&self) -> bool {
        let alone = u64::from(self.unit.length) == self.chunk.plain.len();
        alone && !matches!(self.unit.form, Form::Zran(_))
    }
}

/// A part of a file: bytes of a chunk, or of a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// `None` is a hole: zeros.
    pub(super) chunk: Option<Chunk>,
    /// Bytes of the chunk that come before.
    pub(super) skip: u32,
    pub(super) length: u32,
}
