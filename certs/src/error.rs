//! What can go wrong: which file, and what to do about it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::DAYS_MAX;

/// Why nothing was made.
#[derive(Debug, Error)]
pub enum Error {
    /// A name that no certificate can have.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    Name(String),
    /// No or too long a time.
    #[error("{0} days: a certificate is made for 1 to {DAYS_MAX} days")]
    Days(u32),
    /// A CA for interception that could sign any name.
    #[error("name the hosts that it is for")]
    NoHosts,
    /// A file is in the way.
    #[error("{} is there already: --force replaces it", .0.display())]
    Exists(PathBuf),
    /// The directory has no CA.
    #[error("{} is missing: make a CA first, with `darter certs ca --dir {}`", file.display(), dir.display())]
    NoAuthority {
        /// The file that is missing.
        file: PathBuf,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// The CA's time is over.
    #[error("{}: its time is over: make another one, with `darter certs ca --force`, and sign all nodes again", .0.display())]
    Expired(PathBuf),
    /// A file that does not hold what it should.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The library that makes certificates refused.
    #[error("the certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

impl Error {
    /// Whether what was typed is wrong, not what was found.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Name(_) | Self::Days(_) | Self::NoHosts)
    }
}
