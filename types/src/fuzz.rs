//! The body of a fuzz target: names. The unit tests and `cargo xtask fuzz` run it.

use std::fmt::Display;
use std::str::FromStr;

use crate::{Digest, HostId, Locality, ManifestReference, RegistryName, Repository, Tag, TaskId};

/// Any bytes as each kind of name.
///
/// # Panics
/// If a name is taken that reads differently when it is written, or that a path or a log line could not hold.
pub fn fuzz_names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    one::<Digest>(&text);
    one::<TaskId>(&text);
    one::<HostId>(&text);
    one::<Locality>(&text);
    one::<ManifestReference>(&text);
    one::<RegistryName>(&text);
    one::<Repository>(&text);
    one::<Tag>(&text);
}

fn one<T: FromStr + Display>(text: &str) {
    let Ok(name) = text.parse::<T>() else { return };
    let written = name.to_string();
    let again = written.parse::<T>().ok().map(|again| again.to_string());
    assert_eq!(again.as_deref(), Some(&*written), "of {text:?}");
    let climbs = written.split('/').any(|part| part == ".." || part == ".");
    assert!(
        !climbs && !written.contains(|c: char| c.is_control() || c == '\\' || c == '%'),
        "{text:?} is taken as {written:?}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        darter_testkit::fuzz::check("names", fuzz_names);
    }
}
