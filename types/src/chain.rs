//! The digest chain: how one piece of a blob is checked alone, against the blob's own digest.
//!
//! SHA-256 and SHA-512 (FIPS 180-4) walk over their input block by block; all that one block hands to the
//! next is the internal state. Written down at every piece border, these states are the blob's **chain**:
//! piece *i* is hashed from state *i*, on any core and in any order, and must arrive at state *i + 1*, the
//! last piece at the digest. A piece that does is **linked**; a blob whose pieces are all linked is
//! **proved**, for the walk was then the hash of the whole.
//!
//! A piece that is read out of order has no state before it yet. Whoever read it from the origin **attests** it: by the SHA-256
//! of the piece alone ([`PieceProof::attested`]). That is one node's word and no proof, until the chain reaches the piece.
//!
//! What must hold: a [`Chain`] never changes a state that it has (a second opinion is a
//! [`ChainError::Conflict`]), and a piece length is a multiple of the block, so that borders fall between
//! blocks.

use sha2::block_api::{compress256, compress512};
use thiserror::Error;

use crate::{Algorithm, Digest, PieceLayout, PieceNumber};

/// The internal state of the hash at one piece border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainState {
    /// Eight 32-bit words.
    Sha256([u32; 8]),
    /// Eight 64-bit words.
    Sha512([u64; 8]),
}

impl ChainState {
    /// The state before the first byte: the constant that FIPS 180-4, section 5.3, gives.
    pub fn initial(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256([
                0x6a09_e667,
                0xbb67_ae85,
                0x3c6e_f372,
                0xa54f_f53a,
                0x510e_527f,
                0x9b05_688c,
                0x1f83_d9ab,
                0x5be0_cd19,
            ]),
            Algorithm::Sha512 => Self::Sha512([
                0x6a09_e667_f3bc_c908,
                0xbb67_ae85_84ca_a73b,
                0x3c6e_f372_fe94_f82b,
                0xa54f_f53a_5f1d_36f1,
                0x510e_527f_ade6_82d1,
                0x9b05_688c_2b3e_6c1f,
                0x1f83_d9ab_fb41_bd6b,
                0x5be0_cd19_137e_2179,
            ]),
        }
    }

    /// The hash function that it belongs to.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The words in big-endian order, as the hash itself writes them.
    pub fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::Sha256(words) => words.iter().flat_map(|word| word.to_be_bytes()).collect(),
            Self::Sha512(words) => words.iter().flat_map(|word| word.to_be_bytes()).collect(),
        }
    }

    /// Reads what [`Self::to_bytes`] wrote; `None` if the length is not the algorithm's.
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != algorithm.digest_bytes() {
            return None;
        }
        Some(match algorithm {
            Algorithm::Sha256 => {
                let (chunks, _) = bytes.as_chunks::<4>();
                let mut words = [0; 8];
                words
                    .iter_mut()
                    .zip(chunks)
                    .for_each(|(word, chunk)| *word = u32::from_be_bytes(*chunk));
                Self::Sha256(words)
            }
            Algorithm::Sha512 => {
                let (chunks, _) = bytes.as_chunks::<8>();
                let mut words = [0; 8];
                words
                    .iter_mut()
                    .zip(chunks)
                    .for_each(|(word, chunk)| *word = u64::from_be_bytes(*chunk));
                Self::Sha512(words)
            }
        })
    }

    fn block_bytes(&self) -> usize {
        self.algorithm().block_bytes()
    }

    /// Walks over whole blocks; `blocks` is a multiple of the block length.
    fn compress(&mut self, blocks: &[u8]) {
        match self {
            Self::Sha256(words) => compress256(words, blocks.as_chunks::<64>().0),
            Self::Sha512(words) => compress512(words, blocks.as_chunks::<128>().0),
        }
    }
}

/// Hashes from any piece border onwards, as bytes come.
#[derive(Clone, Debug)]
pub struct PieceHasher {
    state: ChainState,
    /// Bytes of the content before and including what is in `pending`.
    offset: u64,
    /// Where what is hashed begins: 0, but for a piece that is hashed alone.
    from: u64,
    pending: [u8; 128],
    pending_len: usize,
}

impl PieceHasher {
    /// Begins at the first byte of a content.
    pub fn start(algorithm: Algorithm) -> Self {
        Self::resume(ChainState::initial(algorithm), 0)
    }

    /// Begins at the piece border `offset` (in bytes), whose state is `state`.
    pub fn resume(state: ChainState, offset: u64) -> Self {
        Self {
            state,
            offset,
            from: 0,
            pending: [0; 128],
            pending_len: 0,
        }
    }

    /// Hashes what begins at `offset` as if it were a content of its own: for attestations.
    pub fn alone(offset: u64) -> Self {
        Self {
            from: offset,
            ..Self::resume(ChainState::initial(Algorithm::Sha256), offset)
        }
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, mut data: &[u8]) {
        self.offset += data.len() as u64;
        let block = self.state.block_bytes();
        if self.pending_len > 0 {
            let (head, rest) = data.split_at(data.len().min(block - self.pending_len));
            self.push_pending(head);
            data = rest;
            if self.pending_len < block {
                return;
            }
            let full = self.pending;
            self.state.compress(full.get(..block).unwrap_or(&full));
            self.pending_len = 0;
        }
        let (blocks, rest) = data.split_at(data.len() - data.len() % block);
        self.state.compress(blocks);
        self.push_pending(rest);
    }

    fn push_pending(&mut self, bytes: &[u8]) {
        for (slot, byte) in self.pending.iter_mut().skip(self.pending_len).zip(bytes) {
            *slot = *byte;
        }
        self.pending_len += bytes.len();
    }

    /// Bytes of the content that it has seen, counted from the content's first byte.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The state here; `None` between two block borders.
    pub fn state(&self) -> Option<ChainState> {
        (self.pending_len == 0).then_some(self.state)
    }

    /// Ends the content here: padding and length by FIPS 180-4, section 5.1, then the digest.
    pub fn digest(mut self) -> Digest {
        let algorithm = self.state.algorithm();
        let block = algorithm.block_bytes();
        let bits = u128::from(self.offset - self.from) * 8;
        let length_bytes = block / 8;
        let mut tail = Vec::with_capacity(2 * block);
        tail.extend(self.pending.iter().take(self.pending_len));
        tail.push(0x80);
        let padded = (tail.len() + length_bytes).next_multiple_of(block) - length_bytes;
        tail.resize(padded, 0);
        tail.extend(bits.to_be_bytes().iter().skip(16 - length_bytes));
        self.state.compress(&tail);
        match Digest::new(algorithm, &self.state.to_bytes()) {
            Some(digest) => digest,
            None => unreachable!("a state has its algorithm's length"),
        }
    }
}

/// What a piece must arrive at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// The state at the border behind it.
    Border(ChainState),
    /// It is the last piece: the digest of the whole.
    Last(Digest),
    /// It is not linked: the SHA-256 of the piece alone, by the word of who read it from the origin.
    Attested(Digest),
}

/// All that is needed to check one piece alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceProof {
    /// State at the border before the piece.
    pub before: ChainState,
    /// Offset of that border in bytes.
    pub offset: u64,
    /// Length of the piece in bytes.
    pub length: u64,
    /// What it must arrive at.
    pub after: Link,
}

impl PieceProof {
    /// The check of a piece whose state before is not known, by an attestation.
    pub fn attested(range: crate::ByteRange, sum: Digest) -> Self {
        Self {
            before: ChainState::initial(Algorithm::Sha256),
            offset: range.start,
            length: range.len(),
            after: Link::Attested(sum),
        }
    }

    /// Whether it rests on an attestation.
    pub fn is_attested(&self) -> bool {
        matches!(self.after, Link::Attested(_))
    }

    /// The hasher to feed the piece's bytes to.
    pub fn hasher(&self) -> PieceHasher {
        match self.after {
            Link::Attested(_) => PieceHasher::alone(self.offset),
            Link::Border(_) | Link::Last(_) => PieceHasher::resume(self.before, self.offset),
        }
    }

    /// Whether `hasher`, having seen exactly this piece, arrived where it must.
    pub fn accepts(&self, hasher: PieceHasher) -> bool {
        if hasher.offset() != self.offset + self.length {
            return false;
        }
        match self.after {
            Link::Border(state) => hasher.state() == Some(state),
            Link::Last(digest) | Link::Attested(digest) => hasher.digest() == digest,
        }
    }

    /// Whether `piece` is the piece.
    pub fn links(&self, piece: &[u8]) -> bool {
        let mut hasher = self.hasher();
        hasher.update(piece);
        self.accepts(hasher)
    }
}

/// Why states do not fit a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChainError {
    /// Two authors disagree: one of them lies, or the content is not what its digest says.
    #[error("two chains of {digest} differ at piece border {border}")]
    Conflict {
        /// The content.
        digest: Digest,
        /// The border at which they differ.
        border: u32,
    },
    /// A border beyond those that the layout has, or a state of another algorithm.
    #[error("piece border {border} of {digest} does not exist or has a state of another algorithm")]
    Malformed {
        /// The content.
        digest: Digest,
        /// The border that was named.
        border: u32,
    },
    /// The states do not join those that are known.
    #[error("the chain of {digest} is known up to border {known}; states from border {first} leave a gap")]
    Gap {
        /// The content.
        digest: Digest,
        /// Borders known so far.
        known: u32,
        /// First border that came.
        first: u32,
    },
}

/// The chain of one content, as far as it is known: states from the first border on, without gaps.
///
/// Border `i` lies before piece `i`; border 0 is the constant and always known. The border behind the last
/// piece has no state of its own: the digest stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    digest: Digest,
    layout: PieceLayout,
    states: Vec<ChainState>,
}

impl Chain {
    /// The chain of which only the constant is known.
    pub fn new(digest: Digest, layout: PieceLayout) -> Self {
        Self {
            digest,
            layout,
            states: vec![ChainState::initial(digest.algorithm())],
        }
    }

    /// The digest that it leads to.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The cut of the content.
    pub fn layout(&self) -> PieceLayout {
        self.layout
    }

    /// How many borders are known, the first included. Borders `0..known()` have states.
    pub fn known(&self) -> u32 {
        u32::try_from(self.states.len()).unwrap_or(u32::MAX)
    }

    /// Whether every border is known, so that every piece can be checked.
    pub fn is_complete(&self) -> bool {
        self.known() == self.layout.piece_count()
    }

    /// States of the borders from `first` on.
    pub fn states_from(&self, first: u32) -> &[ChainState] {
        self.states.get(first as usize..).unwrap_or(&[])
    }

    /// Takes in the states of borders `first`, `first + 1`, …; those that are known must be equal.
    /// On an error nothing is taken in.
    pub fn extend(&mut self, first: u32, states: &[ChainState]) -> Result<(), ChainError> {
        let digest = self.digest;
        let known = self.known();
        if first > known {
            return Err(ChainError::Gap { digest, known, first });
        }
        for (state, border) in states.iter().zip(first..) {
            if border >= self.layout.piece_count() || state.algorithm() != digest.algorithm() {
                return Err(ChainError::Malformed { digest, border });
            }
            if self.states.get(border as usize).is_some_and(|mine| mine != state) {
                return Err(ChainError::Conflict { digest, border });
            }
        }
        self.states.extend(states.iter().skip((known - first) as usize));
        Ok(())
    }

    /// Forgets the states of borders `known` and above. The constant stays.
    pub fn cut(&mut self, known: u32) {
        self.states.truncate(known.max(1) as usize);
    }

    /// What checks `piece`; `None` while a state that it needs is not known.
    pub fn proof(&self, piece: PieceNumber) -> Option<PieceProof> {
        let range = self.layout.piece_range(piece);
        let after = match piece.cmp(&self.layout.last_piece()) {
            std::cmp::Ordering::Less => Link::Border(*self.states.get(piece as usize + 1)?),
            std::cmp::Ordering::Equal => Link::Last(self.digest),
            std::cmp::Ordering::Greater => return None,
        };
        let before = *self.states.get(piece as usize)?;
        Some(PieceProof {
            before,
            offset: range.start,
            length: range.len(),
            after,
        })
    }
}

#[cfg(test)]
mod tests;
