//! When a large blob is read over several connections, and what that may cost.

use darter_service::config::ByteSize;
use serde::{Deserialize, Serialize};

const CONNECTIONS_LIMIT: usize = 16;
const SEGMENT_MIN: ByteSize = ByteSize::kib(64);
const SEGMENT_MAX: ByteSize = ByteSize::mib(64);

/// Large blobs over several connections, for registries whose single connections are slow. How it goes:
/// `proxy/origin/src/reading.rs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LargeBlobsConfig {
    /// Connections that one blob may have, 1 to 16. 4 by default; 1 reads each blob over one.
    pub connections_per_blob: usize,
    /// What must be left of a blob for more than one connection, in bytes. 64 MiB by default, at least two segments.
    pub length_min: ByteSize,
    /// Bytes of one request, while there are several. 4 MiB by default, 64 KiB to 64 MiB.
    pub segment_length: ByteSize,
    /// Memory for bytes that come before their turn, over all blobs. 48 MiB by default, at least one segment. Blobs
    /// that find none are read over one connection.
    pub read_ahead_max: ByteSize,
}

impl Default for LargeBlobsConfig {
    fn default() -> Self {
        Self {
            connections_per_blob: 4,
            length_min: ByteSize::mib(64),
            segment_length: ByteSize::mib(4),
            read_ahead_max: ByteSize::mib(48),
        }
    }
}

impl LargeBlobsConfig {
    /// All that is wrong with it; each text starts with the path of the key, below `at`.
    pub(super) fn problems(&self, at: &str, problems: &mut Vec<String>) {
        let (connections, segment) = (self.connections_per_blob, self.segment_length);
        if !(1..=CONNECTIONS_LIMIT).contains(&connections) {
            problems.push(format!(
                "{at}.connectionsPerBlob: {connections} is not within 1 to {CONNECTIONS_LIMIT}"
            ));
        }
        if !(SEGMENT_MIN..=SEGMENT_MAX).contains(&segment) {
            problems.push(format!(
                "{at}.segmentLength: {segment} is not within {SEGMENT_MIN} to {SEGMENT_MAX}"
            ));
        }
        if self.length_min.as_u64() / 2 < segment.as_u64() {
            problems.push(format!(
                "{at}.lengthMin: {} is less than two segments of {segment}",
                self.length_min
            ));
        }
        if self.read_ahead_max < segment {
            problems.push(format!(
                "{at}.readAheadMax: {} is less than one segment of {segment}; write connectionsPerBlob: 1 to read \
                 nothing ahead",
                self.read_ahead_max
            ));
        }
    }
}
