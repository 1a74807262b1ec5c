//! Mappings of data files, and the registry that finds the file behind a slice of one.
//!
//! The one place of this crate with unsafe code. What must hold: a mapped file is never truncated (it is
//! unlinked when it is dropped), and its entry leaves the registry before its addresses are given back.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};

use bytes::Bytes;

use crate::sync::{read, write};

/// Which addresses are slices of which files: lets a server that is handed a slice send the file instead, by
/// `sendfile(2)`, without touching the bytes.
#[derive(Debug, Default)]
pub struct Mappings {
    /// By first address.
    regions: RwLock<BTreeMap<usize, Region>>,
}

#[derive(Debug)]
struct Region {
    length: usize,
    file: Arc<File>,
    unreadable: Unreadable,
}

/// Whether somebody could not read a data file through its mapping. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Unreadable(Arc<AtomicBool>);

impl Unreadable {
    pub(super) fn is_said(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn say(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The part of a file that a slice is a mapping of.
#[derive(Clone, Debug)]
pub struct MappedRange {
    /// The file, open for reading and writing; good for as long as this value lives.
    pub file: Arc<File>,
    /// Offset of the slice's first byte in the file, in bytes.
    pub offset: u64,
    unreadable: Unreadable,
}

impl MappedRange {
    /// Says that the file cannot be read: the store gives away no more slices of it while it is open.
    pub fn give_up(&self) {
        self.unreadable.say();
    }
}

impl Mappings {
    /// The file behind `bytes`, if they lie wholly within one mapping. Takes O(log n) of n mappings.
    pub fn find(&self, bytes: &[u8]) -> Option<MappedRange> {
        let address = bytes.as_ptr().addr();
        let regions = read(&self.regions);
        let (first, region) = regions.range(..=address).next_back()?;
        let offset = address - first;
        if offset.checked_add(bytes.len())? > region.length {
            return None;
        }
        Some(MappedRange {
            file: region.file.clone(),
            offset: offset as u64,
            unreadable: region.unreadable.clone(),
        })
    }

    /// How many mappings there are now. The system allows 65530 a process by default (`vm.max_map_count`).
    pub fn count(&self) -> usize {
        read(&self.regions).len()
    }
}

/// A mapping that is known to its registry for as long as it lives.
struct MappedFile {
    map: memmap2::Mmap,
    registry: Arc<Mappings>,
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for MappedFile {
    // Runs before the fields are dropped, so the entry goes before the addresses may be given to others.
    fn drop(&mut self) {
        write(&self.registry.regions).remove(&self.map.as_ptr().addr());
    }
}

/// Fails when a file has fewer bytes than its content. What is mapped behind its end may not be touched: the system ends the
/// process (SIGBUS), and shows zeros up to the end of the last page.
pub(super) fn long_enough(file: &File, length: u64) -> io::Result<()> {
    if file.metadata()?.len() < length {
        let why = "the data file is shorter than its content";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
    }
    Ok(())
}

/// Maps the first `length` bytes of `file`, which has at least as many. An empty file needs no mapping.
#[expect(
    unsafe_code,
    reason = "a mapping is the one way to hand out file bytes without copying them"
)]
pub(super) fn map_file(
    file: &Arc<File>,
    length: u64,
    registry: &Arc<Mappings>,
    unreadable: &Unreadable,
) -> io::Result<Bytes> {
    if length == 0 {
        return Ok(Bytes::new());
    }
    long_enough(file, length)?;
    let length = usize::try_from(length).map_err(io::Error::other)?;
    // SAFETY: the mapping is shared and read-only. The file lies in a directory that only this user may write
    // to and that this process holds the lock of; it was just seen to be long enough and this crate never
    // shortens it, so no access beyond its end can raise SIGBUS. Bytes of it change only by writes of this
    // crate into pieces that are not present, and nobody reads those but to check them against their proof.
    let map = unsafe { memmap2::MmapOptions::new().len(length).map(&**file)? };
    write(&registry.regions).insert(
        map.as_ptr().addr(),
        Region {
            length,
            file: file.clone(),
            unreadable: unreadable.clone(),
        },
    );
    Ok(Bytes::from_owner(MappedFile {
        map,
        registry: registry.clone(),
    }))
}

/// Starts writing dirty pages of `file` to the disk and does not wait for them: keeps the `fdatasync` at the
/// end short. Failures show there as well, so they are not told here.
#[expect(unsafe_code, reason = "rustix has no sync_file_range(2)")]
pub(super) fn start_writeback(file: &File) {
    // SAFETY: takes a descriptor that is open for the call and no pointers.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_file_behind_a_slice_until_the_last_slice_is_gone() {
        let registry = Arc::new(Mappings::default());
        let file = Arc::new(tempfile::tempfile().unwrap());
        file.set_len(3 << 20).unwrap();
        let whole = map_file(&file, 3 << 20, &registry, &Unreadable::default()).unwrap();
        let slice = whole.slice(1 << 20..2 << 20);
        assert_eq!(registry.find(&slice).unwrap().offset, 1 << 20);
        assert_eq!(registry.find(&whole).unwrap().offset, 0);
        assert!(registry.find(&[1, 2, 3]).is_none());
        assert_eq!(registry.find(&slice[7..]).unwrap().offset, (1 << 20) + 7);
        drop(whole);
        assert_eq!(registry.count(), 1);
        drop(slice);
        assert_eq!(registry.count(), 0);
    }

    #[test]
    fn a_slice_that_reaches_beyond_a_mapping_is_none_of_it() {
        let bytes = [0; 32];
        let registry = Mappings::default();
        let region = Region {
            length: 16,
            file: Arc::new(tempfile::tempfile().unwrap()),
            unreadable: Unreadable::default(),
        };
        write(&registry.regions).insert(bytes[8..].as_ptr().addr(), region);
        assert_eq!(registry.find(&bytes[20..24]).unwrap().offset, 12);
        assert_eq!(registry.find(&bytes[8..24]).unwrap().offset, 0);
        for outside in [&bytes[7..9], &bytes[20..25], &bytes[24..25], &bytes] {
            assert!(registry.find(outside).is_none());
        }
    }

    #[test]
    fn refuses_to_map_beyond_the_end_of_a_file() {
        let registry = Arc::new(Mappings::default());
        let file = Arc::new(tempfile::tempfile().unwrap());
        file.set_len(10).unwrap();
        assert!(map_file(&file, 11, &registry, &Unreadable::default()).is_err());
        assert!(
            map_file(&file, 0, &registry, &Unreadable::default())
                .unwrap()
                .is_empty()
        );
        assert_eq!(registry.count(), 0);
    }
}
