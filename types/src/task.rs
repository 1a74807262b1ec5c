//! The name of one content within the cluster.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Algorithm, Digest, PieceHasher};

/// Names a task: one content, wherever it comes from.
///
/// A content with a digest is named by it, so one blob of two registries is one task. A URL is named by the
/// hash of what identifies it, each part preceded by its length, so no two different tuples share a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TaskId {
    /// A content with a known digest.
    Content(Digest),
    /// A URL and what makes its answer differ, hashed.
    Url(Digest),
}

/// Why a text is not a task's name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("task {0:?}: expected sha256:<hex>, sha512:<hex> or url:<hex of sha256>")]
pub struct TaskIdError(String);

impl TaskId {
    /// The task of a URL: `url` without its filtered query parameters, and the caller's tag, application and
    /// range where it gave them.
    pub fn of_url(url: &str, tag: &str, application: &str, range: &str) -> Self {
        let mut hasher = PieceHasher::start(Algorithm::Sha256);
        for part in [url, tag, application, range] {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        Self::Url(hasher.digest())
    }

    /// The digest that proves the content, where its name is one.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Content(digest) => Some(*digest),
            Self::Url(_) => None,
        }
    }

    /// 64 bits of the name's own hash, for placing tasks on a ring.
    pub fn ring_position(&self) -> u64 {
        let (Self::Content(digest) | Self::Url(digest)) = self;
        digest
            .hash()
            .iter()
            .take(8)
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }
}

impl From<Digest> for TaskId {
    fn from(digest: Digest) -> Self {
        Self::Content(digest)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Content(digest) => digest.fmt(f),
            Self::Url(digest) => write!(f, "url:{}", digest.hex()),
        }
    }
}

impl FromStr for TaskId {
    type Err = TaskIdError;

    fn from_str(text: &str) -> Result<Self, TaskIdError> {
        let parsed = match text.strip_prefix("url:") {
            Some(hex) => format!("sha256:{hex}").parse().map(Self::Url),
            None => text.parse().map(Self::Content),
        };
        parsed.map_err(|_| TaskIdError(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for TaskId {
    type Error = TaskIdError;

    fn try_from(text: String) -> Result<Self, TaskIdError> {
        text.parse()
    }
}

impl From<TaskId> for String {
    fn from(task: TaskId) -> Self {
        task.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_back_what_it_writes() {
        for task in [
            TaskId::of_url("http://x/y", "", "app", ""),
            Digest::of(Algorithm::Sha512, b"").into(),
        ] {
            assert_eq!(task.to_string().parse(), Ok(task));
        }
        assert!("url:00".parse::<TaskId>().is_err());
        assert!("../x".parse::<TaskId>().is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(darter_testkit::cases(4096, 1_000_000)))]
        #[test]
        fn unequal_tuples_have_unequal_names(a in prop::array::uniform4("[ab/:]{0,3}"), b in prop::array::uniform4("[ab/:]{0,3}")) {
            let of = |t: &[String; 4]| TaskId::of_url(&t[0], &t[1], &t[2], &t[3]);
            prop_assert_eq!(of(&a) == of(&b), a == b);
        }
    }
}
