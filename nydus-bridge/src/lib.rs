//! Nydus images, mounted lazily: a file's bytes come through the mirror when somebody reads them.
//!
//! What must hold: a reader gets the bytes whose digests the bootstrap names, or an error, and never waits for ever.

pub mod blob;
pub mod fs;
pub mod image;
