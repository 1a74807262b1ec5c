//! The library behind `darter certs`: authorities and certificates for a small cluster, as files.
//!
//! [`authority`] makes a CA and reads one back, [`node`] signs for a node, [`show`] says what stands in a file; [`files`]
//! writes. Nothing here runs in a role: roles read files, whoever made them. What must hold: a key is never readable by
//! others and never overwritten unasked; no certificate outlives the CA that signed it.

pub mod authority;
mod error;
mod files;
pub mod node;
pub mod show;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use time::{Duration, OffsetDateTime};

pub use error::Error;

/// The longest time that anything is made for, in days: ten years.
pub const DAYS_MAX: u32 = 3650;

/// A certificate and its key, as they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The certificate in PEM, readable by all.
    pub cert_file: PathBuf,
    /// Its key in PEM, readable by its owner alone.
    pub key_file: PathBuf,
    /// The end of its time.
    pub not_after: OffsetDateTime,
}

/// From when to when something is good that is made at `now` for so many days. It begins a little earlier: clocks differ.
fn lifetime(now: OffsetDateTime, days: u32) -> Result<(OffsetDateTime, OffsetDateTime), Error> {
    if !(1..=DAYS_MAX).contains(&days) {
        return Err(Error::Days(days));
    }
    let wrong = || Error::Days(days);
    let from = now.checked_sub(Duration::minutes(5)).ok_or_else(wrong)?;
    let until = now.checked_add(Duration::days(days.into())).ok_or_else(wrong)?;
    Ok((from, until))
}
