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

/// The SHA-256 of the stored bytes of a piece, if they still link: whoever vouches for them says what came from the registry, not what a
/// disk made of it.
pub(super) fn sum(stored: &dyn StoredTask, proof: &PieceProof) -> Option<Digest> {
    if !links(stored, proof) {
        return None;
    }
    let (hasher, end) = (PieceHasher::alone(proof.offset), proof.offset + proof.length);
    Some(hash(hasher, end, |range| stored.read(range))?.digest())
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

#[cfg(test)]
mod tests {
    use super::*;
    use darter_store::{ContentFacts, MemoryStore, PieceStore as _};
    use darter_types::{Algorithm, Chain, PieceLayout};

    #[test]
    fn only_what_still_links_is_vouched_for() {
        let truth = vec![7; 600 * 1024];
        let layout = PieceLayout::of(truth.len() as u64).unwrap();
        let digest = Digest::of(Algorithm::Sha256, &truth);
        let mut chain = Chain::new(digest, layout);
        let mut hasher = PieceHasher::start(Algorithm::Sha256);
        for piece in 0..layout.last_piece() {
            hasher.update(&truth[layout.piece_range(piece).indices()]);
            chain.extend(piece + 1, &[hasher.state().unwrap()]).unwrap();
        }
        let facts = ContentFacts {
            layout,
            origin: None,
            media_type: None,
            whole: true,
            public: true,
        };
        let store = MemoryStore::new(u64::MAX);
        let stored = store.open(digest.into(), &facts).unwrap();
        stored.write(0, &truth).unwrap();
        for piece in 0..layout.piece_count() {
            let proof = chain.proof(piece).unwrap();
            let bytes = &truth[layout.piece_range(piece).indices()];
            let expected = Digest::of(Algorithm::Sha256, bytes);
            assert_eq!(sum(&*stored, &proof), Some(expected), "piece {piece}");
            stored.write(layout.piece_range(piece).start + 5, &[8]).unwrap();
            assert_eq!(sum(&*stored, &proof), None, "piece {piece}");
        }
    }
}
