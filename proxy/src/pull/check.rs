//! Linking again a piece that the store kept over a restart.

use darter_store::StoredTask;
use darter_types::{ByteRange, PieceProof};

/// Whether the stored bytes of the piece still link.
pub(crate) fn links(stored: &dyn StoredTask, proof: &PieceProof) -> bool {
    let mut hasher = proof.hasher();
    let end = proof.offset + proof.length;
    while hasher.offset() < end {
        match stored.read(ByteRange::new(hasher.offset(), end)) {
            Ok(bytes) if !bytes.is_empty() => hasher.update(&bytes),
            _ => return false,
        }
    }
    proof.accepts(hasher)
}
