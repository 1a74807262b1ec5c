//! Bounds of what the network may send, checked before anything is kept.

/// Most piece runs in one message. A node that has more sends several messages.
pub const RUNS_MAX: usize = 65_536;
/// Most contents in one `Announce`.
pub const HELD_MAX: usize = 1_000;
/// Most states in one `Links`.
pub const STATES_MAX: usize = 16_384;
/// Most parents in one set.
pub const PARENTS_MAX: usize = 64;
/// Most schedulers in one ring.
pub const SCHEDULERS_MAX: usize = 1_024;
/// Longest free text (reasons, builds, addresses), in bytes; longer ones are refused.
pub const TEXT_BYTES_MAX: usize = 1_024;
/// Most sources in one `Have`, and costs in one `Load`.
pub const SOURCES_MAX: usize = 256;
/// Longest dynamic configuration of a cluster, in bytes of JSON.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;
/// Largest gRPC message that either side accepts, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
