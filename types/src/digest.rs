//! Content digests, as the OCI image specification writes them (`descriptor.md`, section "Digests").
//!
//! Only registered algorithms are accepted, each with its exact length in lowercase hexadecimal: a digest
//! is a file name and a cache key, so there is exactly one spelling of each.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// A hash function that a digest may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256 (FIPS 180-4), the one in general use.
    Sha256,
    /// SHA-512 (FIPS 180-4), registered by the OCI image specification as well.
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the hash in bytes.
    pub fn digest_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// Length of one block of the compression function in bytes.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// The digest of a content: `sha256:` or `sha512:` and the hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    hash: [u8; 64],
}

/// Why a text is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DigestError {
    /// There is no `:` between algorithm and hash.
    #[error("a digest is written algorithm:hash, for example sha256:9f86…")]
    NoAlgorithm,
    /// The algorithm is weak, unknown or not registered for contents.
    #[error("digest algorithm {0:?} is not accepted; use sha256 or sha512")]
    Algorithm(String),
    /// The hash has another length than the algorithm makes.
    #[error("a {algorithm} digest has {expected} hexadecimal digits, not {found}")]
    Length {
        /// Name of the algorithm.
        algorithm: &'static str,
        /// Digits that it needs.
        expected: usize,
        /// Digits that were there.
        found: usize,
    },
    /// A character is not one of `0-9a-f`.
    #[error("a digest has lowercase hexadecimal digits only")]
    NotHexadecimal,
}

impl Digest {
    /// Makes a digest of the raw hash; `None` if its length is not the algorithm's.
    pub fn new(algorithm: Algorithm, raw: &[u8]) -> Option<Self> {
        let mut hash = [0; 64];
        hash.get_mut(..algorithm.digest_bytes())?
            .copy_from_slice(match raw.len() {
                n if n == algorithm.digest_bytes() => raw,
                _ => return None,
            });
        Some(Self { algorithm, hash })
    }

    /// Hashes `data` whole.
    pub fn of(algorithm: Algorithm, data: &[u8]) -> Self {
        let mut hasher = crate::PieceHasher::start(algorithm);
        hasher.update(data);
        hasher.digest()
    }

    /// Its hash function.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash itself.
    pub fn hash(&self) -> &[u8] {
        self.hash
            .get(..self.algorithm.digest_bytes())
            .unwrap_or(&self.hash)
    }

    /// The hash in lowercase hexadecimal, without the algorithm.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        let mut out = String::with_capacity(2 * self.hash().len());
        for byte in self.hash() {
            // Writing to a String cannot fail.
            let _ = write!(out, "{byte:02x}");
        }
        out
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, hex) = text.split_once(':').ok_or(DigestError::NoAlgorithm)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            other => return Err(DigestError::Algorithm(other.chars().take(32).collect())),
        };
        let expected = 2 * algorithm.digest_bytes();
        if hex.len() != expected {
            return Err(DigestError::Length {
                algorithm: algorithm.as_str(),
                expected,
                found: hex.len(),
            });
        }
        let mut hash = [0; 64];
        for (byte, pair) in hash.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = pair
                .iter()
                .try_fold(0, |sum, digit| Some(sum << 4 | nibble(*digit)?))
                .ok_or(DigestError::NotHexadecimal)?;
        }
        Ok(Self { algorithm, hash })
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_writes() {
        let digest = Digest::of(Algorithm::Sha256, b"hello");
        assert_eq!(
            digest.to_string(),
            "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        );
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn refuses_weak_algorithms_and_other_spellings() {
        let good = Digest::of(Algorithm::Sha256, b"x").to_string();
        for bad in [
            "md5:d41d8cd98f00b204e9800998ecf8427e".to_owned(),
            "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709".to_owned(),
            "crc32:00000000".to_owned(),
            "sha512/224:00".to_owned(),
            good.to_uppercase(),
            good.replace("sha256:", "sha256:A")
                .chars()
                .take(good.len())
                .collect(),
            good.chars().take(good.len() - 1).collect(),
            format!("{good}0"),
            good.replace(':', ""),
            "sha256:../../etc/passwd".to_owned(),
            String::new(),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn new_refuses_a_hash_of_another_length() {
        assert!(Digest::new(Algorithm::Sha256, &[0; 64]).is_none());
        assert!(Digest::new(Algorithm::Sha512, &[0; 32]).is_none());
        assert!(Digest::new(Algorithm::Sha512, &[0; 64]).is_some());
    }
}
