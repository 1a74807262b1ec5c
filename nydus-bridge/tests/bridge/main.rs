//! Images made by Nydus's own builder, read through the library and through FUSE, and compared with what they were made of.
//!
//! Mounting needs root and `/dev/fuse`.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

mod background;
mod config;
mod convert;
mod fixture;
mod guarded;
mod layered;
mod malformed;
mod mirror;
mod mounted;
mod nydusd;
mod process;
mod pushed;
mod reading;
mod snapshot;
mod snapshotter;
mod source;
mod tree;
mod writable;
