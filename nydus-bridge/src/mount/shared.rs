//! What a mount shows: one image, or many, each as a directory of its name below a root that is in no image.
//!
//! With many, the upper 16 bits of a file's number say which image it is of (its *instance*, counted from 1; the root has
//! none), and the lower 48 are its number there. Numbers of images and instances that are told once mean the same as long
//! as the mount lives, in whatever process: so instances are not used again, and are part of what a successor is told.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use fuser::{INodeNo, Notifier};
use thiserror::Error;

use super::adapter::{Counters, Question, Watch};
use crate::fs::{Attributes, Entry, FsError, Kind, OpenImage, ROOT, Reading};

/// Where the number of the instance begins.
const INSTANCE_SHIFT: u32 = 48;
/// The number of a file in its image.
const INNER: u64 = (1 << INSTANCE_SHIFT) - 1;
/// Most images at once.
pub const IMAGES_MAX: usize = 8192;

/// An image that is shown, and what is counted of it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shown {
    image: OpenImage,
    counters: Arc<Counters>,
}

impl Shown {
    /// Nothing is counted yet.
    pub fn new(image: OpenImage) -> Self {
        Self {
            image,
            counters: Arc::default(),
        }
    }

    pub(crate) fn image(&self) -> &OpenImage {
        &self.image
    }

    /// What is counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// What a mount shows. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Files {
    /// One image.
    One(Shown),
    /// Any number of them.
    Many(Arc<Shared>),
}

/// Many images.
#[derive(Debug, Default)]
pub struct Shared {
    table: RwLock<Table>,
    notifier: OnceLock<Notifier>,
}

#[derive(Debug, Default)]
struct Table {
    images: BTreeMap<u16, (OsString, Shown)>,
    instances: BTreeMap<OsString, u16>,
    last: u16,
}

/// Why an image is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SharedError {
    /// Another one has that name.
    #[error("an image is mounted there already")]
    Taken,
    /// The name cannot be one of a directory.
    #[error("images are mounted at one name below the root, such as /12")]
    Name,
    /// No more are possible.
    #[error("{IMAGES_MAX} images are mounted at once at most, and 65535 in the life of a mount")]
    TooMany,
}

/// A file by its own image.
struct Place {
    shown: Shown,
    ino: u64,
    base: u64,
}

impl Place {
    fn outer(&self, mut attributes: Attributes) -> Attributes {
        attributes.ino |= self.base;
        attributes
    }
}

impl Shared {
    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever can tell the kernel that something changed; only the first counts.
    pub(super) fn tell_by(&self, notifier: Notifier) {
        let _ = self.notifier.set(notifier);
    }

    /// Shows an image under a name; as the instance that it had in another process, or as a new one. Its instance.
    ///
    /// # Errors
    /// The name or the instance is taken, or there are too many.
    pub fn add(&self, name: &OsStr, instance: Option<u16>, shown: Shown) -> Result<u16, SharedError> {
        let bytes = name.as_encoded_bytes();
        if bytes.is_empty() || bytes.len() > 255 || name == "." || name == ".." || bytes.contains(&b'/') {
            return Err(SharedError::Name);
        }
        let mut table = self.change();
        if table.instances.contains_key(name) {
            return Err(SharedError::Taken);
        }
        let next = table
            .last
            .checked_add(1)
            .filter(|_| table.images.len() < IMAGES_MAX);
        let instance = match instance {
            Some(0) => return Err(SharedError::Taken),
            Some(had) if table.images.contains_key(&had) => return Err(SharedError::Taken),
            Some(had) => had,
            None => next.ok_or(SharedError::TooMany)?,
        };
        table.last = table.last.max(instance);
        table.images.insert(instance, (name.to_owned(), shown));
        table.instances.insert(name.to_owned(), instance);
        drop(table);
        self.changed(name);
        Ok(instance)
    }

    /// Shows an image no more. Whether there was one of that name.
    pub fn remove(&self, name: &OsStr) -> bool {
        let mut table = self.change();
        let Some(instance) = table.instances.remove(name) else {
            return false;
        };
        let gone = table.images.remove(&instance);
        drop((table, gone));
        self.changed(name);
        true
    }

    /// The image of that name.
    pub fn find(&self, name: &OsStr) -> Option<Shown> {
        let table = self.table();
        let instance = table.instances.get(name)?;
        table.images.get(instance).map(|(_, shown)| shown.clone())
    }

    /// The highest instance that was ever used.
    pub fn last(&self) -> u16 {
        self.table().last
    }

    /// Has instances up to this one never used again.
    pub fn skip_to(&self, last: u16) {
        let mut table = self.change();
        table.last = table.last.max(last);
    }

    /// The kernel forgets what it knows of a name in the root, and the listing. Waits for its answers to questions that
    /// are out: not to be called where such a question is answered.
    fn changed(&self, name: &OsStr) {
        if let Some(notifier) = self.notifier.get() {
            let root = INodeNo(ROOT);
            let told = notifier
                .inval_entry(root, name)
                .and_then(|()| notifier.inval_inode(root, 0, 0));
            if let Err(error) = told {
                tracing::debug!(%error, "the kernel does not take back what it knows");
            }
        }
    }

    fn place(&self, ino: u64) -> Result<Place, FsError> {
        let instance = u16::try_from(ino >> INSTANCE_SHIFT).map_err(|_| FsError::NotFound)?;
        let table = self.table();
        let (_, shown) = table.images.get(&instance).ok_or(FsError::NotFound)?;
        Ok(Place {
            shown: shown.clone(),
            ino: ino & INNER,
            base: ino & !INNER,
        })
    }

    fn attributes(&self) -> Attributes {
        Attributes {
            ino: ROOT,
            kind: Kind::Directory,
            permissions: 0o755,
            size: 0,
            links: 2,
            uid: 0,
            gid: 0,
            device: 0,
            modified: SystemTime::UNIX_EPOCH,
        }
    }

    fn lookup(&self, name: &OsStr) -> Result<Attributes, FsError> {
        let instance = self.table().instances.get(name).copied();
        self.root_of(instance.ok_or(FsError::NotFound)?)
    }

    fn root_of(&self, instance: u16) -> Result<Attributes, FsError> {
        let place = self.place((u64::from(instance) << INSTANCE_SHIFT) | ROOT)?;
        Ok(place.outer(place.shown.image.attributes(ROOT)?))
    }

    /// Places in the listing are instances, behind the two that every directory has.
    fn entries(&self, from: u64, mut show: impl FnMut(Entry) -> bool) {
        for (place, name) in [(1, "."), (2, "..")] {
            let entry = Entry {
                attributes: self.attributes(),
                name: name.into(),
                next: place,
            };
            if from < place && !show(entry) {
                return;
            }
        }
        let names: Vec<_> = {
            let table = self.table();
            let after = table
                .images
                .iter()
                .map(|(instance, (name, _))| (*instance, name.clone()));
            after
                .filter(|(instance, _)| u64::from(*instance) + 2 > from)
                .collect()
        };
        for (instance, name) in names {
            // It may have gone meanwhile.
            let Ok(attributes) = self.root_of(instance) else {
                continue;
            };
            let next = u64::from(instance) + 2;
            if !show(Entry {
                attributes,
                name,
                next,
            }) {
                return;
            }
        }
    }
}

impl Files {
    fn place(&self, ino: u64) -> Result<Place, FsError> {
        match self {
            Self::One(shown) => Ok(Place {
                shown: shown.clone(),
                ino,
                base: 0,
            }),
            Self::Many(shared) => shared.place(ino),
        }
    }

    /// The images, if this is the root above them.
    fn root(&self, ino: u64) -> Option<&Shared> {
        match self {
            Self::Many(shared) if ino == ROOT => Some(shared),
            _ => None,
        }
    }

    /// Whether the kernel may keep that a name is not in a directory.
    pub(super) fn is_fixed(&self, directory: u64) -> bool {
        self.root(directory).is_none()
    }

    /// Begins to count a question about a file.
    pub(super) fn watch(&self, question: Question, ino: u64) -> Watch {
        let counters = self.place(ino).ok().map(|place| place.shown.counters);
        Watch::new(counters, question)
    }

    pub(super) fn attributes(&self, ino: u64) -> Result<Attributes, FsError> {
        if let Some(root) = self.root(ino) {
            return Ok(root.attributes());
        }
        let place = self.place(ino)?;
        Ok(place.outer(place.shown.image.attributes(place.ino)?))
    }

    pub(super) fn lookup(&self, parent: u64, name: &OsStr) -> Result<Attributes, FsError> {
        if let Some(root) = self.root(parent) {
            return root.lookup(name);
        }
        let place = self.place(parent)?;
        Ok(place.outer(place.shown.image.lookup(place.ino, name)?))
    }

    pub(super) fn entries(
        &self,
        ino: u64,
        from: u64,
        mut show: impl FnMut(Entry) -> bool,
    ) -> Result<(), FsError> {
        if let Some(root) = self.root(ino) {
            root.entries(from, show);
            return Ok(());
        }
        let place = self.place(ino)?;
        let shown = |mut entry: Entry| {
            entry.attributes = place.outer(entry.attributes);
            show(entry)
        };
        place.shown.image.entries(place.ino, from, shown)
    }

    pub(super) fn link(&self, ino: u64) -> Result<OsString, FsError> {
        let place = self.place(ino)?;
        place.shown.image.link(place.ino)
    }

    pub(super) fn xattr(&self, ino: u64, name: &OsStr) -> Result<Option<Vec<u8>>, FsError> {
        if self.root(ino).is_some() {
            return Ok(None);
        }
        let place = self.place(ino)?;
        place.shown.image.xattr(place.ino, name)
    }

    pub(super) fn xattrs(&self, ino: u64) -> Result<Vec<OsString>, FsError> {
        if self.root(ino).is_some() {
            return Ok(Vec::new());
        }
        let place = self.place(ino)?;
        place.shown.image.xattrs(place.ino)
    }

    pub(super) fn read(&self, ino: u64, offset: u64, length: u64) -> Result<Reading, FsError> {
        let place = self.place(ino)?;
        place.shown.image.read(place.ino, offset, length)
    }

    /// How many files there are, and how many bytes they have.
    pub(super) fn size(&self) -> (u64, u64) {
        let size = |shown: &Shown| (shown.image.files(), shown.image.bytes());
        match self {
            Self::One(shown) => size(shown),
            Self::Many(shared) => {
                let table = shared.table();
                let sizes = table.images.values().map(|(_, shown)| size(shown));
                sizes.fold((0, 0), |(files, bytes), (more_files, more_bytes)| {
                    (files.saturating_add(more_files), bytes.saturating_add(more_bytes))
                })
            }
        }
    }
}
