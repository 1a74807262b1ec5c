//! Bytes for tests: given ones, or pseudo-random ones that can be read at any offset without being
//! stored, so that a blob of many GiB costs no memory.
//!
//! The generator is a counter through a mixing function (splitmix64): fast, and the same in every run
//! and on every machine. It is no cryptographic generator. What must hold: reading `[a, c)` gives the
//! same bytes as reading `[a, b)` and `[b, c)`, for every `b`.

use std::fmt::Write as _;
use std::ops::Range;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// How much is generated at once when a whole content is walked.
const WALK_BYTES: usize = 256 * 1024;

/// The content of a blob: kept bytes, or the rule that makes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Bytes that are kept in memory.
    Bytes(Bytes),
    /// `len` bytes of the stream that `seed` names.
    Generated {
        /// Names the stream: equal seeds give equal bytes.
        seed: u64,
        /// Length in bytes.
        len: u64,
    },
}

impl Content {
    /// `len` pseudo-random bytes that cost no memory.
    pub fn generated(seed: u64, len: u64) -> Self {
        Self::Generated { seed, len }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Generated { len, .. } => *len,
        }
    }

    /// Whether there is no byte at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of `range`, cut at the end of the content.
    pub fn read(&self, range: Range<u64>) -> Bytes {
        let end = range.end.min(self.len());
        let start = range.start.min(end);
        match self {
            Self::Bytes(bytes) => bytes.slice(to_usize(start)..to_usize(end)),
            Self::Generated { seed, .. } => {
                let mut buffer = vec![0; to_usize(end - start)];
                fill(*seed, start, &mut buffer);
                buffer.into()
            }
        }
    }

    /// The OCI digest `sha256:…` of the whole content.
    pub fn digest(&self) -> String {
        match self {
            Self::Bytes(bytes) => sha256_of(bytes),
            Self::Generated { seed, len } => digest_of(*seed, *len),
        }
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Bytes(text.into())
    }
}

impl From<&'static str> for Content {
    fn from(text: &'static str) -> Self {
        Self::Bytes(Bytes::from_static(text.as_bytes()))
    }
}

impl From<std::sync::Arc<[u8]>> for Content {
    fn from(bytes: std::sync::Arc<[u8]>) -> Self {
        Self::Bytes(Bytes::from_owner(bytes))
    }
}

/// Fills `buffer` with the stream of `seed` from `offset` (in bytes) on.
pub fn fill(seed: u64, offset: u64, buffer: &mut [u8]) {
    let key = mix(seed);
    let mut block = offset / 8;
    let skip = to_usize(offset % 8);
    let (first, rest) = buffer.split_at_mut(buffer.len().min((8 - skip) % 8));
    if !first.is_empty() {
        for (target, source) in first
            .iter_mut()
            .zip(block_bytes(key, block).into_iter().skip(skip))
        {
            *target = source;
        }
        block += 1;
    }
    let mut whole = rest.chunks_exact_mut(8);
    for chunk in &mut whole {
        chunk.copy_from_slice(&block_bytes(key, block));
        block += 1;
    }
    for (target, source) in whole.into_remainder().iter_mut().zip(block_bytes(key, block)) {
        *target = source;
    }
}

/// The bytes `[offset, offset + len)` of the stream of `seed`.
pub fn bytes_at(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    let mut buffer = vec![0; len];
    fill(seed, offset, &mut buffer);
    buffer
}

/// The OCI digest `sha256:…` of the first `len` bytes of the stream of `seed`, in constant memory.
pub fn digest_of(seed: u64, len: u64) -> String {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; WALK_BYTES];
    let mut offset = 0;
    while offset < len {
        let step = to_usize((len - offset).min(WALK_BYTES as u64));
        let part = buffer
            .get_mut(..step)
            .expect("a step is never longer than the buffer");
        fill(seed, offset, part);
        hash.update(&*part);
        offset += step as u64;
    }
    named(&hash.finalize())
}

/// The OCI digest `sha256:…` of `bytes`.
pub fn sha256_of(bytes: &[u8]) -> String {
    named(&Sha256::digest(bytes))
}

/// One step of a seeded generator: the next state's value. Same in every run; not cryptographic.
pub(crate) fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn block_bytes(key: u64, block: u64) -> [u8; 8] {
    mix(key.wrapping_add(block.wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_le_bytes()
}

fn named(hash: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in hash {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}

/// Offsets of contents that are really read fit memory.
pub(crate) fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("a part of a content that is held in memory fits its address space")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_digests() {
        assert_eq!(
            sha256_of(b"abc"),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(digest_of(7, 0), sha256_of(b""));
        assert_eq!(digest_of(7, 700_001), sha256_of(&bytes_at(7, 0, 700_001)));
    }

    #[test]
    fn seeds_differ_and_the_stream_has_no_short_period() {
        assert_ne!(bytes_at(1, 0, 64), bytes_at(2, 0, 64));
        let stream = bytes_at(1, 0, 1 << 16);
        let blocks: std::collections::BTreeSet<&[u8]> = stream.chunks(8).collect();
        assert_eq!(blocks.len(), stream.len() / 8);
    }

    #[test]
    fn far_offsets_cost_nothing() {
        let content = Content::generated(3, 1 << 40);
        assert_eq!(content.read((1 << 40) - 5..u64::MAX).len(), 5);
        assert!(content.read(1 << 41..1 << 42).is_empty());
    }

    proptest! {
        #[test]
        fn any_split_reads_alike(seed: u64, start in 0u64..1 << 33, len in 0usize..200, cut in 0usize..200) {
            let whole = bytes_at(seed, start, len);
            let cut = cut.min(len);
            let mut parts = bytes_at(seed, start, cut);
            parts.extend(bytes_at(seed, start + cut as u64, len - cut));
            prop_assert_eq!(&whole, &parts);
            let kept = Content::from(bytes_at(seed, 0, 300));
            let made = Content::generated(seed, 300);
            let range = cut as u64..(cut + len) as u64;
            prop_assert_eq!(kept.read(range.clone()), made.read(range));
        }
    }
}
