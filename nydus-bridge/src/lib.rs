//! Nydus images, mounted lazily: a file's bytes come through the mirror when somebody reads them.
//!
//! [`image`] finds out what an image's name stands for and unpacks its metadata, the *bootstrap*. [`fs`] reads the bootstrap
//! and turns a read of a file into *chunks* of blobs, which [`blob`] fetches by ranges. [`mount`] shows all that through
//! FUSE. [`convert`] makes such images, [`snapshotter`] gives such mounts to containerd, [`nydusd`] does so for another
//! snapshotter. Types of the Nydus crates stay inside [`fs`] and [`convert`].
//!
//! What must hold: a reader gets the bytes whose digests the bootstrap names, or an error, and never waits for ever.

pub mod blob;
pub mod config;
pub mod convert;
pub mod fs;
pub mod image;
pub mod metrics;
pub mod mount;
pub mod nydusd;
pub mod snapshotter;
