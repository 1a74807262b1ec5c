//! podman, buildah, skopeo and CRI-O: `registries.conf` and its drop-ins, which all of them read.
//!
//! An entry stands for a prefix of image names. Where two files have one for the same prefix, the later file's
//! replaces the earlier one whole, so an entry that is there is edited in its file, and only a registry without one
//! gets a new entry, in a drop-in of ours. These clients send no `ns`: the registry is the first part of the path
//! that the mirror gets.
//!
//! `registries` edits one file and is pure.

use std::path::{Path, PathBuf};

use crate::plan::Change;
use crate::{Error, Mirror, Note, Plan, Registry, Runtime, backup, rooted};
use registries::File;

mod registries;

const MAIN: &str = "/etc/containers/registries.conf";
const DROP_INS: &str = "/etc/containers/registries.conf.d";
/// The name of our drop-in. Others with a later name win, as they should.
const OURS: &str = "50-darter.conf";

/// What `darter setup podman` or `crio` was asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node's file system: `/`, or where it is mounted.
    pub root: PathBuf,
    /// The address of the proxy.
    pub mirror: Mirror,
    /// The registries to pull through the proxy; empty means Docker Hub.
    pub registries: Vec<Registry>,
    /// Whether only images that are named by digest are pulled through the proxy; tags then go to the registry.
    pub digest_only: bool,
}

impl Options {
    /// The defaults: Docker Hub, tags and digests, the proxy at `http://127.0.0.1:4001`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            mirror: Mirror::default(),
            registries: Vec::new(),
            digest_only: false,
        }
    }
}

/// What has to change so that these clients pull through the proxy. Reads only.
///
/// # Errors
/// Any [`Error`] about what is there now: unreadable, invalid, or written in a way that is not understood.
pub fn plan(options: &Options) -> Result<Plan, Error> {
    let authority = options.mirror.authority()?;
    let mut plan = Plan::new(&options.root, Runtime::Containers);
    let mut files = load(&options.root)?;
    let registries = match options.registries.as_slice() {
        [] => vec!["docker.io".parse()?],
        named => named.to_vec(),
    };
    for registry in registries {
        let name = registry.name()?;
        for file in &files {
            for prefix in file.narrower(name)? {
                plan.note(Note::NarrowerPrefix {
                    prefix,
                    path: file.path().to_path_buf(),
                });
            }
        }
        let mirror = registries::Mirrored {
            name,
            authority,
            insecure: options.mirror.is_http(),
            digest_only: options.digest_only,
        };
        let index = match position(&files, name)? {
            Some(index) => index,
            None => ours(&mut files),
        };
        if let Some(file) = files.get_mut(index)
            && let Some(registry) = file.set(&mirror)?
        {
            plan.note(Note::InsecureRegistry {
                registry,
                path: file.path().to_path_buf(),
            });
        }
    }
    for file in files {
        add(&mut plan, file);
    }
    Ok(plan)
}

/// What has to change to take back every [`plan`] that was applied with the same `state_dir`. Reads only.
///
/// # Errors
/// [`Error::BadRecord`] if the record is damaged, and errors of reading.
pub fn undo(root: &Path, state_dir: &Path) -> Result<Plan, Error> {
    backup::undo(root, state_dir, Runtime::Containers)
}

/// The main file and the drop-ins, in the order in which a later one wins.
fn load(root: &Path) -> Result<Vec<File>, Error> {
    let drop_ins = rooted::names(root, Path::new(DROP_INS))?
        .into_iter()
        .filter(|name| name.ends_with(".conf"))
        .map(|name| Path::new(DROP_INS).join(name));
    std::iter::once(PathBuf::from(MAIN))
        .chain(drop_ins)
        .map(|path| {
            let bytes = rooted::read(root, &path)?;
            File::parse(path, bytes)
        })
        .collect()
}

/// The file whose entry for the registry counts.
fn position(files: &[File], name: &str) -> Result<Option<usize>, Error> {
    let mut found = None;
    for (index, file) in files.iter().enumerate() {
        if file.has(name)? {
            found = Some(index);
        }
    }
    Ok(found)
}

/// Our drop-in, added if it is not there.
fn ours(files: &mut Vec<File>) -> usize {
    let path = Path::new(DROP_INS).join(OURS);
    files
        .iter()
        .position(|file| file.path() == path)
        .unwrap_or_else(|| {
            files.push(File::empty(path));
            files.len() - 1
        })
}

fn add(plan: &mut Plan, file: File) {
    let path = file.path().to_path_buf();
    let (before, after) = file.into_contents();
    if before == after {
        return;
    }
    plan.note(Note::RestartNeeded {
        path: path.clone(),
        runtime: Runtime::Containers,
    });
    plan.change(Change {
        path,
        before,
        after,
        restart: true,
        private: false,
    });
}

#[cfg(test)]
mod tests;
