//! The users of this machine for whom the node's own credentials may be used.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Where the system keeps its users' names.
const PASSWD: &str = "/etc/passwd";

/// A user of this machine, by name or number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LocalUser {
    /// The number, which no file has to know.
    Id(u32),
    /// A name of `/etc/passwd`.
    Name(String),
}

impl fmt::Display for LocalUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl LocalUser {
    /// The user that is always there.
    pub(super) fn root() -> Self {
        Self::Name("root".to_owned())
    }

    /// The number; an error says why there is none.
    pub(crate) fn id(&self) -> Result<u32, String> {
        match self {
            Self::Id(id) => Ok(*id),
            Self::Name(name) if name == "root" => Ok(0),
            Self::Name(name) => find(Path::new(PASSWD), name),
        }
    }
}

fn find(passwd: &Path, name: &str) -> Result<u32, String> {
    let failed = |error| format!("{} cannot be read: {error}", passwd.display());
    let text = std::fs::read(passwd).map_err(failed)?;
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines
        .filter(|fields| fields.first() == Some(&name))
        .find_map(|fields| fields.get(2)?.parse().ok())
        .ok_or_else(|| format!("{name:?} is no user of {}; write its number", passwd.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let passwd = dir.path().join("passwd");
        std::fs::write(
            &passwd,
            "root:x:0:0::/:/bin/sh\nbroken:x\nann:x:1000:7::/:/bin/sh\n",
        )
        .unwrap();
        assert_eq!(find(&passwd, "ann"), Ok(1000));
        for absent in ["an", "broken", "x", "1000", ""] {
            assert!(
                find(&passwd, absent).unwrap_err().contains("write its number"),
                "{absent}"
            );
        }
        assert!(find(&dir.path().join("nothing"), "ann").is_err());
        assert_eq!(LocalUser::root().id(), Ok(0));
        assert_eq!(LocalUser::Id(12).id(), Ok(12));
    }
}
