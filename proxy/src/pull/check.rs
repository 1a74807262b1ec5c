//! Linking again a piece that the store kept, over a restart or just for long.

use bytes::Bytes;
use darter_store::{StoreError, StoredTask};
use darter_types::{ByteRange, PieceProof};

/// Whether the stored bytes of the piece still link.
pub(crate) fn links(stored: &dyn StoredTask, proof: &PieceProof) -> bool {
    links_by(proof, |range| stored.read(range))
}

/// The same, by what the disk says now.
pub(crate) fn reads_back(stored: &dyn StoredTask, proof: &PieceProof) -> bool {
    links_by(proof, |range| stored.read_back(range))
}

fn links_by(proof: &PieceProof, read: impl Fn(ByteRange) -> Result<Bytes, StoreError>) -> bool {
    let mut hasher = proof.hasher();
    let end = proof.offset + proof.length;
    while hasher.offset() < end {
        match read(ByteRange::new(hasher.offset(), end)) {
            Ok(bytes) if !bytes.is_empty() => hasher.update(&bytes),
            _ => return false,
        }
    }
    proof.accepts(hasher)
}
