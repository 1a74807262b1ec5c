//! One download for all who want a content: the shell around the engine.
//!
//! [`Pulls`] knows the running pulls; [`Pull`] is one content; [`Reader`] streams a byte range of it as the
//! bytes are proved. Many readers, one download (single flight).

mod request;

pub use request::{PullError, PullRequest};
