//! A plan: the files to write or remove, each with its content before and after, and what else to know.
//!
//! A plan holds whole contents, so that showing it, applying it and refusing to apply it to files that changed
//! meanwhile all need nothing else. It decides nothing: the runtime's module does.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::backup::{self, Record};
use crate::{Error, Runtime, diff, rooted};

/// What a setup or its undo would do. Made by `plan` and `undo` of each client's module.
#[derive(Debug)]
pub struct Plan {
    pub(crate) root: PathBuf,
    pub(crate) runtime: Runtime,
    pub(crate) changes: Vec<Change>,
    pub(crate) notes: Vec<Note>,
    /// For an undo: the record that is left after it.
    pub(crate) left: Option<Record>,
}

/// One file. `None` means that there is no such file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) path: PathBuf,
    pub(crate) before: Option<Vec<u8>>,
    pub(crate) after: Option<Vec<u8>>,
    /// Whether the runtime reads the file at its start only.
    pub(crate) restart: bool,
    /// Whether a new file is readable for its owner alone.
    pub(crate) private: bool,
}

/// Something that the user should know or do. `Display` gives a sentence for the terminal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Note {
    /// The runtime does not read this file at each pull: it has to be told.
    RestartNeeded {
        /// The file that changes.
        path: PathBuf,
        /// Whose file it is.
        runtime: Runtime,
    },
    /// A distribution writes this file anew at its start.
    Regenerated {
        /// The file that changes.
        path: PathBuf,
        /// `k3s` or `RKE2`.
        distribution: &'static str,
    },
    /// The registry gets a directory of its own, so that the hosts of `_default` no longer apply to it.
    DefaultNoLongerApplies {
        /// The registry.
        registry: String,
        /// The file whose hosts do not apply to it any more.
        path: PathBuf,
    },
    /// The CRI plugin is disabled in this file: Kubernetes does not pull through this containerd.
    CriDisabled {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else changed this file after setup had written it; the undo leaves it as it is.
    ChangedSince {
        /// The file.
        path: PathBuf,
        /// Where the content from before the setup is kept; `None` if the file did not exist.
        copy: Option<PathBuf>,
    },
    /// `config_path` is not set, and was not to be set: containerd does not look at `hosts.toml`.
    NoConfigPath {
        /// The file where it belongs.
        path: PathBuf,
    },
    /// There is no record of an earlier setup.
    NothingToUndo,
    /// Docker's classic image store uses mirrors for Docker Hub alone.
    DockerHubOnly {
        /// The registry that was asked for.
        registry: String,
    },
    /// Docker keeps images in containerd: mirrors stand in `hosts.toml` files, and `registry-mirrors` is not used
    /// for a registry that has one.
    ContainerdStore {
        /// Where those files are.
        directory: PathBuf,
    },
    /// Docker's files do not tell which image store it uses.
    UnknownStore {
        /// Where the containerd image store looks.
        directory: PathBuf,
    },
    /// A narrower prefix has an entry of its own, which a client takes for the images below it.
    NarrowerPrefix {
        /// The prefix.
        prefix: String,
        /// The file that has it.
        path: PathBuf,
    },
    /// The client may reach the registry without TLS; the proxy has to be told as well.
    InsecureRegistry {
        /// The registry.
        registry: String,
        /// The file that says so.
        path: PathBuf,
    },
    /// A unit of systemd is other than before: systemd has to read it, and Docker has to be started with it.
    UnitChanged {
        /// The file.
        path: PathBuf,
    },
    /// The client does not say to a mirror which registry it means.
    NamesNoRegistry {
        /// The registry that the proxy's `mirror.defaultRegistry` has to be.
        registry: String,
    },
    /// The client is sent to the forward proxy, which the proxy's own configuration turns on.
    ForwardNeeded {
        /// Its address.
        url: String,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RestartNeeded { path, runtime } => {
                write!(f, "{} {}", path.display(), runtime.next_step())
            }
            Self::Regenerated { path, distribution } => write!(
                f,
                "{} is written anew when {distribution} restarts: run setup again then, or name the mirror in its \
                 registries.yaml",
                path.display()
            ),
            Self::DefaultNoLongerApplies { registry, path } => write!(
                f,
                "{registry} gets its own hosts.toml, so the hosts in {} no longer apply to it",
                path.display()
            ),
            Self::CriDisabled { path } => write!(
                f,
                "{} disables the CRI plugin: Kubernetes does not pull through this containerd",
                path.display()
            ),
            Self::ChangedSince { path, copy } => changed_since(f, path, copy.as_deref()),
            Self::NoConfigPath { path } => write!(
                f,
                "{} sets no config_path, so containerd does not read hosts.toml: run `darter setup containerd \
                 --only config-path` once",
                path.display()
            ),
            Self::NothingToUndo => f.write_str("there is no record of an earlier setup: nothing to undo"),
            Self::DockerHubOnly { registry } => write!(
                f,
                "{registry} is not pulled through the mirror: Docker's classic image store has mirrors for docker.io \
                 only"
            ),
            Self::ContainerdStore { directory } => write!(
                f,
                "Docker's containerd image store is on: mirrors are taken from hosts.toml files below {}, at each \
                 pull",
                directory.display()
            ),
            Self::UnknownStore { directory } => write!(
                f,
                "which image store Docker uses cannot be seen from its files, so both forms are written: \
                 registry-mirrors for the classic store, hosts.toml below {} for the containerd image store",
                directory.display()
            ),
            Self::NarrowerPrefix { prefix, path } => write!(
                f,
                "{prefix} has an entry of its own in {}: images below it are not pulled through the mirror",
                path.display()
            ),
            Self::InsecureRegistry { registry, path } => write!(
                f,
                "{} lets {registry} be reached without TLS; the proxy needs \
                 origin.registries.\"{registry}\".plainHttp (or caFile) to reach it too",
                path.display()
            ),
            Self::UnitChanged { path } => write!(
                f,
                "{} takes effect after systemctl daemon-reload && systemctl restart docker",
                path.display()
            ),
            Self::NamesNoRegistry { registry } => write!(
                f,
                "this client does not tell a mirror which registry it means: set mirror.defaultRegistry of the proxy \
                 to {registry}"
            ),
            Self::ForwardNeeded { url } => forward_needed(f, url),
        }
    }
}

fn forward_needed(f: &mut fmt::Formatter<'_>, url: &str) -> fmt::Result {
    write!(
        f,
        "the proxy has to listen at {url}: set its forward.listen, and give each registry an entry below \
         origin.registries, so that what is read is shared"
    )
}

fn changed_since(f: &mut fmt::Formatter<'_>, path: &Path, copy: Option<&Path>) -> fmt::Result {
    let path = path.display();
    match copy {
        Some(copy) => write!(
            f,
            "{path} was changed after setup wrote it and is left as it is; what was there before is in {}",
            copy.display()
        ),
        None => write!(
            f,
            "{path} was changed after setup created it and is left as it is; remove it if it is not needed"
        ),
    }
}

impl Plan {
    pub(crate) fn new(root: &Path, runtime: Runtime) -> Self {
        Self {
            root: root.to_path_buf(),
            runtime,
            changes: Vec::new(),
            notes: Vec::new(),
            left: None,
        }
    }

    /// Adds a file unless it stays as it is.
    pub(crate) fn change(&mut self, change: Change) {
        if change.before != change.after {
            self.changes.push(change);
        }
    }

    /// Adds a note once.
    pub(crate) fn note(&mut self, note: Note) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Whether no file would change. There may be notes all the same.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The files that would change, as seen from inside the root.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.changes.iter().map(|change| change.path.as_path())
    }

    /// What the user should know or do, in the order in which it came up.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// The changes like `diff -u` shows them, for people, without passwords in addresses; empty for an empty plan.
    pub fn render(&self) -> String {
        let side = |mark: &str, change: &Change, content: &Option<Vec<u8>>| match content {
            Some(_) => format!("{mark} {}\n", change.path.display()),
            None => format!("{mark} /dev/null\n"),
        };
        let text = |content: &Option<Vec<u8>>| {
            without_passwords(&String::from_utf8_lossy(content.as_deref().unwrap_or(b"")))
        };
        let mut rendered = String::new();
        for change in &self.changes {
            rendered.push_str(&side("---", change, &change.before));
            rendered.push_str(&side("+++", change, &change.after));
            rendered.push_str(&diff::unified(&text(&change.before), &text(&change.after)));
        }
        rendered
    }

    /// Performs the changes. `state_dir` (for instance `/var/lib/darter/setup`, not below the root) keeps what was
    /// there before, so that an undo can give it back; it must be the same for both.
    ///
    /// Each file is replaced whole or not at all. Should it stop half way, an undo or another apply works.
    ///
    /// # Errors
    /// [`Error::ChangedMeanwhile`] if a file is not what it was when the plan was made (then nothing is written),
    /// [`Error::Permission`] and [`Error::Io`] if the system refuses.
    pub fn apply(&self, state_dir: &Path) -> Result<(), Error> {
        for change in &self.changes {
            if rooted::read(&self.root, &change.path)? != change.before {
                return Err(Error::ChangedMeanwhile {
                    path: change.path.clone(),
                });
            }
        }
        let state_dir = state_dir.join(self.runtime.folder());
        match &self.left {
            None if self.is_empty() => Ok(()),
            None => {
                backup::record(&self.root, &state_dir, &self.changes)?;
                self.write()
            }
            Some(left) => {
                self.write()?;
                backup::finish_undo(&self.root, &state_dir, left)
            }
        }
    }

    fn write(&self) -> Result<(), Error> {
        self.changes.iter().try_for_each(|change| match &change.after {
            Some(bytes) => rooted::write(&self.root, &change.path, bytes, change.private),
            None => rooted::remove(&self.root, &change.path),
        })
    }
}

/// A text whose addresses show no password: `http://user:***@host`.
pub(crate) fn without_passwords(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("://") {
        let end = behind
            .find(['/', '?', '#', '"', '\'', '\n', ' ', '\t'])
            .unwrap_or(behind.len());
        let authority = behind.get(..end).unwrap_or_default();
        shown.push_str(before);
        shown.push_str("://");
        rest = behind;
        if let Some((user_info, _)) = authority.rsplit_once('@') {
            let user = user_info.split(':').next().unwrap_or_default();
            shown.push_str(user);
            shown.push_str(if user.len() < user_info.len() { ":***" } else { "" });
            rest = behind.get(user_info.len()..).unwrap_or_default();
        }
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_addresses_are_not_shown() {
        for (text, shown) in [
            ("A=http://u:p@h:1/x b", "A=http://u:***@h:1/x b"),
            (
                "\"https://u:p@q@h\" http://h/a@b:c",
                "\"https://u:***@h\" http://h/a@b:c",
            ),
            ("http://u@h\nhttp://:p@h", "http://u@h\nhttp://:***@h"),
            ("no address: a@b", "no address: a@b"),
        ] {
            assert_eq!(without_passwords(text), shown);
        }
    }
}
