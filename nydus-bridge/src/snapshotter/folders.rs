//! The directories of snapshots: `snapshots/<number>` with `fs`, the files, and `work`, which overlayfs wants; `images/<number>`,
//! where a Nydus image is mounted.
//!
//! What must hold: a directory has its name only when it is whole; what has no snapshot is removed; nothing is removed through a mount.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, lchown};
use std::path::{Path, PathBuf};

use super::catalog::{Kind, Usage};
use crate::image::BOOTSTRAP_NAMES;

/// How names end that may stand beside it: those of tables for the chunks.
const TABLES: &str = "meta";
/// RAFS 5 begins so, at the beginning.
const RAFS5: (u64, [u8; 4]) = (0, 0x5241_4653_u32.to_le_bytes());
/// RAFS 6 is an EROFS.
const EROFS: (u64, [u8; 4]) = (1024, 0xe0f5_e1e2_u32.to_le_bytes());
/// Longest that the log of a mount may become until it is looked at, and what is kept of it then: its end.
const LOG_BYTES_MAX: u64 = 1 << 20;
const LOG_BYTES_KEPT: u64 = 256 << 10;
/// Directories within each other that are counted.
const DEPTH_MAX: usize = 4096;

/// Whose a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    user: u32,
    group: u32,
}

impl Owner {
    /// The owner of what is at `path`. May hang where that is a mount.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self {
            user: found.uid(),
            group: found.gid(),
        })
    }
}

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Folders {
    root: PathBuf,
}

impl Folders {
    /// Makes the folders below `root`.
    ///
    /// # Errors
    /// `root` has a character that mount options cannot have, or the system refuses.
    pub fn new(root: &Path) -> io::Result<Self> {
        if root.to_str().is_none_or(|text| text.contains([':', ',', '\\'])) {
            let text = "the path must not have a colon, a comma or a backslash: overlayfs could not take it";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(root)?;
        // Mounts are found by their path, which has no links in it.
        let folders = Self {
            root: fs::canonicalize(root)?,
        };
        for folder in [folders.snapshots(), folders.images(), folders.cache()] {
            builder.create(folder)?;
        }
        Ok(folders)
    }

    /// The list of snapshots.
    pub fn database(&self) -> PathBuf {
        self.root.join("snapshots.redb")
    }

    /// For chunks of mounted images.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// The files of a snapshot.
    pub fn files(&self, id: u64) -> PathBuf {
        self.snapshots().join(id.to_string()).join("fs")
    }

    /// What overlayfs works in.
    pub fn work(&self, id: u64) -> PathBuf {
        self.snapshots().join(id.to_string()).join("work")
    }

    /// Where the image of a snapshot is mounted.
    pub fn image(&self, id: u64) -> PathBuf {
        self.images().join(id.to_string())
    }

    /// What the process of that mount says.
    pub fn image_log(&self, id: u64) -> PathBuf {
        self.images().join(format!("{id}.log"))
    }

    /// The same as an empty file, to whose end is written wherever that is by then.
    ///
    /// # Errors
    /// The system refuses.
    pub fn begin_log(&self, id: u64) -> io::Result<File> {
        let path = self.image_log(id);
        let log = File::options().create(true).append(true).open(path)?;
        log.set_len(0)?;
        Ok(log)
    }

    /// Leaves only the end of a log that became long. Lines that are written at this moment may go as well.
    ///
    /// # Errors
    /// The system refuses.
    pub fn cut_log(&self, id: u64) -> io::Result<()> {
        let mut log = match File::options().read(true).append(true).open(self.image_log(id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let length = log.metadata()?.len();
        if length <= LOG_BYTES_MAX {
            return Ok(());
        }
        let mut end = Vec::new();
        log.seek(SeekFrom::Start(length - LOG_BYTES_KEPT))?;
        (&log).take(LOG_BYTES_KEPT).read_to_end(&mut end)?;
        log.set_len(0)?;
        log.write_all(&end)
    }

    fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// A directory until it is whole.
    fn unfinished(&self) -> PathBuf {
        self.snapshots().join("new")
    }

    /// Removes the directory that a killed process was making.
    ///
    /// # Errors
    /// The system refuses.
    pub fn remove_unfinished(&self) -> io::Result<()> {
        remove(&self.unfinished())
    }

    /// Makes the directory of a snapshot, whose root belongs to `owner`, or to this process.
    ///
    /// # Errors
    /// The system refuses.
    pub fn make(&self, id: u64, kind: Kind, owner: Option<Owner>) -> io::Result<()> {
        let (unfinished, whole) = (self.unfinished(), self.snapshots().join(id.to_string()));
        self.remove_unfinished()?;
        remove(&whole)?;
        fs::create_dir(&unfinished)?;
        let files = unfinished.join("fs");
        mode(0o755, &files)?;
        if kind == Kind::Active {
            mode(0o711, &unfinished.join("work"))?;
        }
        if let Some(owner) = owner {
            lchown(&files, Some(owner.user), Some(owner.group))?;
        }
        fs::rename(&unfinished, &whole)
    }

    /// Removes the directory of a snapshot, and the place where its image was mounted.
    ///
    /// # Errors
    /// The system refuses, or the image is mounted still.
    pub fn remove(&self, id: u64) -> io::Result<()> {
        match fs::remove_dir(self.image(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match fs::remove_file(self.image_log(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        remove(&self.snapshots().join(id.to_string()))
    }

    /// The numbers of directories and images that are there, whoever they belong to.
    ///
    /// # Errors
    /// The folders cannot be read.
    pub fn numbers(&self) -> io::Result<BTreeSet<u64>> {
        let mut numbers = BTreeSet::new();
        for folder in [self.snapshots(), self.images()] {
            for entry in fs::read_dir(folder)? {
                let name = entry?.file_name();
                let name = name.to_string_lossy();
                numbers.extend(name.trim_end_matches(".log").parse::<u64>().ok());
            }
        }
        Ok(numbers)
    }

    /// What a snapshot takes: each file once, whatever the number of its names.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn usage(&self, id: u64) -> io::Result<Usage> {
        let (mut usage, mut seen) = (Usage::default(), BTreeSet::new());
        let mut open = vec![(self.files(id), 0)];
        while let Some((path, depth)) = open.pop() {
            let found = match fs::symlink_metadata(&path) {
                Ok(found) => found,
                // A container may remove it at this moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound && depth > 0 => continue,
                Err(error) => return Err(error),
            };
            if found.nlink() > 1 && !found.is_dir() && !seen.insert((found.dev(), found.ino())) {
                continue;
            }
            usage.inodes += 1;
            usage.bytes = usage.bytes.saturating_add(found.blocks().saturating_mul(512));
            if !found.is_dir() || depth >= DEPTH_MAX {
                continue;
            }
            match fs::read_dir(&path) {
                Ok(entries) => {
                    for entry in entries {
                        open.push((entry?.path(), depth + 1));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && depth > 0 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(usage)
    }

    /// The metadata of a Nydus image in a snapshot, if it has any. `alone`: only if nothing else is there, as in a layer that
    /// says nothing of itself.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn bootstrap(&self, id: u64, alone: bool) -> io::Result<Option<PathBuf>> {
        let files = self.files(id);
        for name in BOOTSTRAP_NAMES {
            let path = files.join(name);
            let folder = path.parent().unwrap_or(&files);
            // An image's links lead anywhere.
            if !is(folder, fs::FileType::is_dir) || !is(&path, fs::FileType::is_file) || !is_bootstrap(&path)?
            {
                continue;
            }
            if alone && !(stands_alone(&files, folder, &path)?) {
                continue;
            }
            return Ok(Some(path));
        }
        Ok(None)
    }
}

/// Whether the layer has the metadata at `path` in `folder`, and nothing else but tables.
fn stands_alone(files: &Path, folder: &Path, path: &Path) -> io::Result<bool> {
    let only = |place: &Path, known: &Path| -> io::Result<bool> {
        for entry in fs::read_dir(place)? {
            let found = entry?.path();
            let table = found.extension().is_some_and(|extension| extension == TABLES);
            if found != known && !(place == folder && table) {
                return Ok(false);
            }
        }
        Ok(true)
    };
    Ok(only(folder, path)? && (folder == files || only(files, folder)?))
}

fn is(path: &Path, kind: impl Fn(&fs::FileType) -> bool) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| kind(&found.file_type()))
}

fn is_bootstrap(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    for (at, magic) in [RAFS5, EROFS] {
        let mut found = [0; 4];
        file.seek(SeekFrom::Start(at))?;
        match file.read_exact(&mut found) {
            Ok(()) if found == magic => return Ok(true),
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            _ => {}
        }
    }
    Ok(false)
}

/// A directory with exactly this mode, whatever the process's mask is.
fn mode(mode: u32, path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
