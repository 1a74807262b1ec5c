//! Checking a piece that the store kept, over a restart or just for long, and hashing on from one.

use bytes::Bytes;
use darter_store::{StoreError, StoredTask};
use darter_types::{ByteRange, ChainState, Digest, PieceHasher, PieceProof};

/// Whether the stored bytes of the piece still link.
pub(crate) fn links(stored: &dyn StoredTask, proof: &PieceProof) -> bool {
    links_by(proof, |range| stored.read(range))
}

/// The same, by what the disk says now.
pub(crate) fn reads_back(stored: &dyn StoredTask, proof: &PieceProof) -> bool {
    links_by(proof, |range| stored.read_back(range))
}

fn links_by(proof: &PieceProof, read: impl Fn(ByteRange) -> Result<Bytes, StoreError>) -> bool {
    let end = proof.offset + proof.length;
    hash(proof.hasher(), end, read).is_some_and(|hasher| proof.accepts(hasher))
}

/// The state behind the stored bytes of a piece, from the state before it.
pub(super) fn walk(stored: &dyn StoredTask, piece: ByteRange, before: ChainState) -> Option<ChainState> {
    let hasher = PieceHasher::resume(before, piece.start);
    hash(hasher, piece.end, |range| stored.read(range))?.state()
}

/// The SHA-256 of the stored bytes of a piece.
pub(super) fn sum(stored: &dyn StoredTask, piece: ByteRange) -> Option<Digest> {
    let hasher = PieceHasher::alone(piece.start);
    Some(hash(hasher, piece.end, |range| stored.read(range))?.digest())
}

fn hash(
    mut hasher: PieceHasher,
    end: u64,
    read: impl Fn(ByteRange) -> Result<Bytes, StoreError>,
) -> Option<PieceHasher> {
    while hasher.offset() < end {
        match read(ByteRange::new(hasher.offset(), end)) {
            Ok(bytes) if !bytes.is_empty() => hasher.update(&bytes),
            _ => return None,
        }
    }
    Some(hasher)
}
