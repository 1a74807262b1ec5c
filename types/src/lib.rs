//! The words that every part of Darter shares: contents, pieces, proofs, hosts.
//!
//! Plain values and their rules. Nothing here does I/O, reads a clock or depends on a runtime, so that
//! the engine, the scheduler's decisions and the simulation can use it as it is.
//!
//! Where to start: a [`TaskId`] names one content, its [`PieceLayout`] says how it is cut, a [`Chain`]
//! proves each piece, a [`PieceSet`] says which pieces somebody has.

mod chain;
mod digest;
pub mod fuzz;
mod host;
mod image;
mod layout;
mod moment;
mod origin;
mod pieces;
mod range;
mod task;

pub use chain::{Chain, ChainError, ChainState, Link, PieceHasher, PieceProof};
pub use digest::{Algorithm, Digest, DigestError};
pub use host::{HostId, HostIdError, Locality, LocalityError};
pub use image::{ManifestReference, RegistryName, Repository, RepositoryError, Tag};
pub use layout::{LayoutError, PieceLayout, PieceNumber};
pub use moment::Moment;
pub use origin::{ContentKind, OriginLocator};
pub use pieces::{PieceRun, PieceSet};
pub use range::ByteRange;
pub use task::{TaskId, TaskIdError};
