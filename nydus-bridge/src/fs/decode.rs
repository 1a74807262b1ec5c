//! Unpacks units and proves chunks. Pure, but for the time that it takes.

use std::io;

use bytes::Bytes;
use nydus_utils::compress::{self, zlib_random::ZranDecoder};
use nydus_utils::digest::{self, RafsDigest};

use super::chunk::{Blob, CHUNK_BYTES_MAX, Chunk, Compressor, Form, Hash, Placed, Unit};
use super::context::Context;
use super::error::{FsError, guarded};

/// The bytes of a unit from those that are in the blob. Whether they are the right ones, [`prove`] says.
pub(super) fn unpack(
    unit: &Unit,
    blob: &Blob,
    context: Option<&Context>,
    packed: Bytes,
) -> Result<Bytes, FsError> {
    let length = unit.length as usize;
    if u64::from(unit.length) > CHUNK_BYTES_MAX {
        return Err(FsError::damaged("a unit is too long"));
    }
    guarded(|| {
        let plain = match unit.form {
            Form::Stored => packed,
            Form::Compressed => {
                let mut plain = vec![0; length];
                let filled = compress::decompress(&packed, &mut plain, algorithm(blob.compressor))?;
                plain.truncate(filled);
                plain.into()
            }
            Form::Zran(number) => {
                let context = context.ok_or_else(|| io::Error::other("a unit without its context"))?;
                let (restart, dictionary) = context.restart(number)?;
                let mut plain = vec![0; length];
                ZranDecoder::new()?.uncompress(&restart, Some(dictionary), &packed, &mut plain)?;
                plain.into()
            }
        };
        if plain.len() == length {
            Ok(plain)
        } else {
            Err(io::Error::other("a unit has another length than the image says"))
        }
    })
}

/// The chunk in its unpacked unit, if it has the bytes that its digest says.
pub(super) fn prove(placed: &Placed, blob: &Blob, unit: &Bytes) -> Option<Bytes> {
    let start = placed.at as usize;
    let end = start.checked_add(usize::try_from(placed.chunk.plain.len()).ok()?)?;
    let bytes = unit.get(start..end)?;
    fits(bytes, blob.hash, &placed.chunk).then(|| unit.slice(start..end))
}

/// Whether these are a chunk's bytes.
pub(super) fn fits(bytes: &[u8], by: Hash, chunk: &Chunk) -> bool {
    RafsDigest::from_buf(bytes, hash(by)).data == chunk.digest
}

fn algorithm(compressor: Compressor) -> compress::Algorithm {
    match compressor {
        Compressor::None => compress::Algorithm::None,
        Compressor::Lz4 => compress::Algorithm::Lz4Block,
        Compressor::Gzip => compress::Algorithm::GZip,
        Compressor::Zstd => compress::Algorithm::Zstd,
    }
}

fn hash(hash: Hash) -> digest::Algorithm {
    match hash {
        Hash::Blake3 => digest::Algorithm::Blake3,
        Hash::Sha256 => digest::Algorithm::Sha256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darter_types::{Algorithm, ByteRange, Digest};
    use proptest::prelude::*;

    use super::super::chunk::Packing;

    fn blob(compressor: Compressor) -> Blob {
        Blob {
            digest: Digest::of(Algorithm::Sha256, b""),
            length: 0,
            packing: Packing::Single,
            compressor,
            hash: Hash::Blake3,
        }
    }

    fn placed(plain: &[u8], packed: usize, compressed: bool) -> Placed {
        Placed::single(Chunk {
            blob: 0,
            index: 0,
            packed: ByteRange::new(0, packed as u64),
            plain: ByteRange::new(0, plain.len() as u64),
            compressed,
            digest: RafsDigest::from_buf(plain, digest::Algorithm::Blake3).data,
        })
    }

    #[test]
    fn what_was_packed_is_unpacked_and_proved() {
        let plain = b"some words, some words, some words, ".repeat(40);
        for compressor in [Compressor::Lz4, Compressor::Zstd, Compressor::Gzip] {
            let (packed, compressed) = compress::compress(&plain, algorithm(compressor)).unwrap();
            let placed = placed(&plain, packed.len(), compressed);
            let (packed, blob) = (Bytes::copy_from_slice(&packed), blob(compressor));
            let unit = unpack(&placed.unit, &blob, None, packed).unwrap();
            assert_eq!(prove(&placed, &blob, &unit).unwrap(), plain, "{compressor:?}");
        }
        let (placed, blob) = (placed(&plain, plain.len(), false), blob(Compressor::None));
        let unit = unpack(&placed.unit, &blob, None, Bytes::from(plain.clone())).unwrap();
        assert_eq!(prove(&placed, &blob, &unit).unwrap(), plain);
        let mut other = plain;
        other[7] ^= 1;
        assert!(prove(&placed, &blob, &other.into()).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_unpacked_or_refused(
            packed in prop::collection::vec(any::<u8>(), 0..200),
            length in 0_usize..400,
            which in 0_usize..4,
        ) {
            let compressor = [Compressor::None, Compressor::Lz4, Compressor::Gzip, Compressor::Zstd][which];
            let placed = placed(&vec![0; length], packed.len(), true);
            if let Ok(unit) = unpack(&placed.unit, &blob(compressor), None, packed.into()) {
                prop_assert_eq!(unit.len(), length);
            }
        }
    }
}
