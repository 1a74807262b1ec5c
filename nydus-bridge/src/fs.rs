//! A mounted image: names and attributes from its bootstrap, bytes from chunks of its blobs.
//!
//! [`OpenImage`] is what a mount asks. `tree` reads the bootstrap with Nydus's own crates, `chunk` has the words for what
//! it says, `engine` gets chunks: from `cache`, or by requests that `merge` puts together and `ahead` makes longer, through
//! `decode` and, for chunks that are packed with others, `context`. `prefetch` fetches what nobody wants yet, from `record`
//! among others.
//!
//! What must hold: types of the Nydus crates stay in `tree`, `decode` and `context`; whatever a bootstrap says, nothing
//! panics, runs for ever or takes memory without bound; a chunk whose digest does not fit is never handed out.

mod ahead;
mod cache;
mod chunk;
mod context;
mod decode;
mod engine;
mod error;
mod flights;
mod image;
mod limits;
mod merge;
mod prefetch;
mod record;
mod stats;
mod tree;
mod units;

pub use cache::CacheFolder;
pub use error::FsError;
pub(crate) use error::words;
pub use image::{OpenImage, Pending, Reading};
pub use limits::Limits;
pub use prefetch::Prefetch;
pub use record::Seen;
pub use stats::Stats;
pub use tree::{Attributes, Entry, Kind, fuzz_bootstrap};

/// FUSE's number of the root directory, whatever its number in the bootstrap is.
pub const ROOT: u64 = 1;
