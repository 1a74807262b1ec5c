//! What lies where in the store's directory, and who may open it.
//!
//! ```text
//! VERSION                              "darter-store 1"
//! LOCK                                 locked by the process that uses it, whose number it holds
//! tasks/<2 hex>/<name>/{data,index}    name: sha256-<hex>, sha512-<hex>, url-<hex>
//! trash/<n>                            dropped tasks on their way out
//! ```
//! What must hold: nothing is deleted in a directory that is not known to be a store of this version.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use darter_types::TaskId;
use rustix::fs::{FlockOperation, OFlags};
use thiserror::Error;

use crate::StoreError;

const VERSION_LINE: &str = "darter-store 1\n";
/// What may lie in a directory that becomes a store: remains of a start that was cut short, and what `mkfs`
/// leaves at a mount point.
const HARMLESS: [&str; 3] = ["LOCK", "VERSION.new", "lost+found"];

/// Why a directory cannot be opened as a store.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The path is a symbolic link or not a directory.
    #[error("{path} is not a directory (or a symbolic link to one): give the store a directory of its own")]
    NotADirectory {
        /// The directory as configured.
        path: String,
    },
    /// The directory belongs to somebody else.
    #[error("{path} belongs to user {owner}, not to user {user} that this process runs as: chown it")]
    Owner {
        /// The directory.
        path: String,
        /// Number of its owner.
        owner: u32,
        /// Number of the user of this process.
        user: u32,
    },
    /// Others may write to the directory.
    #[error("{path} has mode {mode:04o}, so others can change cached content: chmod 700 it")]
    Mode {
        /// The directory.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// Another process uses it.
    #[error("{path} is in use by process {holder}: stop it, or give this one another directory")]
    Locked {
        /// The directory.
        path: String,
        /// What the holder wrote into the lock file: its process number.
        holder: String,
    },
    /// It holds files that are not a store's.
    #[error("{path} holds {found:?} and is not a store: give the store an empty directory of its own")]
    Foreign {
        /// The directory.
        path: String,
        /// Something that lies there.
        found: String,
    },
    /// Another release wrote it in a format that this one does not read.
    #[error("{path} has format {found:?}, this release reads {expected:?}: use the release that wrote it, or delete it (it is a cache)",
            expected = VERSION_LINE.trim_end())]
    Version {
        /// The directory.
        path: String,
        /// What its VERSION file says.
        found: String,
    },
    /// It cannot be written to.
    #[error("{path} cannot be written to: remount it, or give the store another directory")]
    ReadOnly {
        /// The directory.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The operating system refused something else.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                Self::ReadOnly { path, source }
            }
            _ => Self::Io { action, path, source },
        }
    }
}

/// The directory, locked.
#[derive(Debug)]
pub(super) struct Root {
    dir: PathBuf,
    /// Open on the directory, to ask for free space.
    handle: File,
    _lock: File,
    buried: AtomicU64,
}

impl Root {
    /// Makes the directory if need be, checks that it is a store of ours, and locks it.
    pub(super) fn open(dir: &Path) -> Result<Self, OpenError> {
        make_dir(dir)?;
        check_dir(dir)?;
        let fresh = is_fresh(dir)?;
        let lock = lock_dir(dir)?;
        if fresh {
            write_version(dir)?;
        }
        for name in ["tasks", "trash"] {
            let path = dir.join(name);
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(OpenError::io("make", &path)(error));
                }
                _ => {}
            }
        }
        let root = Self {
            dir: dir.to_owned(),
            handle: File::open(dir).map_err(OpenError::io("open", dir))?,
            _lock: lock,
            buried: AtomicU64::new(0),
        };
        root.empty_trash()?;
        Ok(root)
    }

    pub(super) fn tasks(&self) -> PathBuf {
        self.dir.join("tasks")
    }

    /// Where the files of `task` are.
    pub(super) fn task_dir(&self, task: TaskId) -> PathBuf {
        let name = task_name(task);
        let hex = name.split_once('-').map_or("", |(_, hex)| hex);
        self.tasks().join(hex.get(..2).unwrap_or(hex)).join(&name)
    }

    /// Bytes that this user may still write to the file system; the highest number if it does not say.
    pub(super) fn free_bytes(&self) -> u64 {
        rustix::fs::fstatvfs(&self.handle)
            .map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Bytes of the whole file system; 0 if it does not say.
    pub(super) fn capacity_bytes(&self) -> u64 {
        rustix::fs::fstatvfs(&self.handle).map_or(0, |stat| stat.f_blocks.saturating_mul(stat.f_frsize))
    }

    /// Moves the files of a task out of sight, in one step, and says where to.
    pub(super) fn bury(&self, task: TaskId) -> Result<PathBuf, StoreError> {
        let from = self.task_dir(task);
        let number = self.buried.fetch_add(1, Ordering::Relaxed);
        let to = self.dir.join("trash").join(number.to_string());
        match fs::rename(&from, &to) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoreError::Io {
                action: "drop",
                path: from.display().to_string(),
                source,
            }),
            _ => Ok(to),
        }
    }

    /// Unlinks what was buried. What cannot be is left to the next start.
    pub(super) fn sweep(&self, buried: &Path) {
        match fs::remove_dir_all(buried) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(path = %buried.display(), error, "cannot delete a dropped task");
            }
            _ => {}
        }
    }

    fn empty_trash(&self) -> Result<(), OpenError> {
        let trash = self.dir.join("trash");
        for entry in fs::read_dir(&trash).map_err(OpenError::io("read", &trash))? {
            let entry = entry.map_err(OpenError::io("read", &trash))?;
            remove_any(&entry.path()).map_err(OpenError::io("delete", &entry.path()))?;
        }
        Ok(())
    }
}

/// Deletes a file, a link, or a directory with all that is in it; links are not followed.
pub(super) fn remove_any(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

/// The name of a task's directory.
pub(super) fn task_name(task: TaskId) -> String {
    task.to_string().replacen(':', "-", 1)
}

/// The task of a directory of that name; `None` if it is no task's.
pub(super) fn parse_name(name: &str) -> Option<TaskId> {
    let task: TaskId = name.replacen('-', ":", 1).parse().ok()?;
    (task_name(task) == name).then_some(task)
}

fn make_dir(dir: &Path) -> Result<(), OpenError> {
    match fs::symlink_metadata(dir) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = dir.parent() {
                fs::create_dir_all(parent).map_err(OpenError::io("make", parent))?;
            }
            let made = DirBuilder::new().mode(0o700).create(dir);
            made.map_err(OpenError::io("make", dir))
        }
        Err(error) => Err(OpenError::io("look at", dir)(error)),
    }
}

fn check_dir(dir: &Path) -> Result<(), OpenError> {
    let path = || dir.display().to_string();
    let metadata = fs::symlink_metadata(dir).map_err(OpenError::io("look at", dir))?;
    if !metadata.is_dir() {
        return Err(OpenError::NotADirectory { path: path() });
    }
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != user {
        return Err(OpenError::Owner {
            path: path(),
            owner,
            user,
        });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(OpenError::Mode { path: path(), mode });
    }
    if mode & 0o077 != 0 {
        // Others could only have read. Private content will lie here, so they no longer can.
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(dir, private).map_err(OpenError::io("make private", dir))?;
    }
    Ok(())
}

fn lock_dir(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("LOCK");
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let mut file = options
        .custom_flags(nofollow())
        .open(&path)
        .map_err(OpenError::io("open", &path))?;
    if let Err(error) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(OpenError::io("lock", &path)(error.into()));
        }
        let mut holder = String::new();
        // The message is better with a number, but stands without one.
        let _ = (&mut file).take(32).read_to_string(&mut holder);
        let holder = holder.trim();
        return Err(OpenError::Locked {
            path: dir.display().to_string(),
            holder: if holder.is_empty() { "(unknown)" } else { holder }.to_owned(),
        });
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(OpenError::io("write", &path))?;
    Ok(file)
}

/// `O_NOFOLLOW`, as the standard library takes it.
pub(super) fn nofollow() -> i32 {
    OFlags::NOFOLLOW.bits().cast_signed()
}

/// Whether the directory is yet to become a store; an error if it is anything but that or a store of this
/// version. Changes nothing.
fn is_fresh(dir: &Path) -> Result<bool, OpenError> {
    let path = dir.join("VERSION");
    let mut found = Vec::new();
    match File::open(&path).and_then(|file| file.take(128).read_to_end(&mut found)) {
        Ok(_) if found == VERSION_LINE.as_bytes() => Ok(false),
        Ok(_) => Err(OpenError::Version {
            path: dir.display().to_string(),
            found: String::from_utf8_lossy(&found).trim_end().to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => check_empty(dir).map(|()| true),
        Err(error) => Err(OpenError::io("read", &path)(error)),
    }
}

fn write_version(dir: &Path) -> Result<(), OpenError> {
    let (new, path) = (dir.join("VERSION.new"), dir.join("VERSION"));
    fs::write(&new, VERSION_LINE)
        .and_then(|()| fs::rename(&new, &path))
        .map_err(OpenError::io("write", &path))
}

fn check_empty(dir: &Path) -> Result<(), OpenError> {
    for entry in fs::read_dir(dir).map_err(OpenError::io("read", dir))? {
        let name = entry.map_err(OpenError::io("read", dir))?.file_name();
        if !HARMLESS.iter().any(|harmless| name == *harmless) {
            return Err(OpenError::Foreign {
                path: dir.display().to_string(),
                found: name.to_string_lossy().into_owned(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
