//! One snapshot, as it is remembered.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// What containerd, or somebody through it, says of a snapshot.
pub type Labels = BTreeMap<String, String>;

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its number, which names its directory and is never used again.
    pub id: u64,
    /// What can be done with it.
    pub kind: Kind,
    /// The name of what it stands on.
    pub parent: Option<String>,
    /// What is said of it.
    pub labels: Labels,
    /// When it was made, or committed.
    pub created: SystemTime,
    /// When its labels changed last.
    pub updated: SystemTime,
    /// What it takes, once it is committed.
    pub usage: Usage,
    /// Where its files are.
    pub role: Role,
}

/// What can be done with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// It can be read.
    View,
    /// It can be written, and committed.
    Active,
    /// It can be stood on.
    Committed,
}

/// What it takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// In bytes, by blocks.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// Where a snapshot's files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// In its directory.
    Files,
    /// In no place of its own: it is a layer of chunks, and its image shows what they make.
    Data,
    /// In a Nydus image, which is mounted; the directory holds the image's metadata. Whatever is below belongs to the image.
    Image {
        /// The image's name, as soon as it is known: where its chunks are.
        reference: Option<String>,
    },
}
