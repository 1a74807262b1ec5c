//! A layer's archive on its way to the builder, made whole: it lists every folder before what is in it.
//!
//! Layers need not list the folders of what they change, and the builder puts what is in such a folder anywhere. What must
//! hold: entries pass as they are, in their order; folders that were added are told, because they say nothing of the
//! folders below them; records that concern the whole archive are left out, as containerd does; what the builder would
//! lose without a word is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use tar::{EntryType, Header, PaxExtensions};

const BLOCK_BYTES: usize = 512;
/// Longest extension of a header: a name, extended attributes.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// Extensions of one header.
const EXTENSIONS_MAX: usize = 8;
/// Longest name. What is deeper than such a name allows would not fit the builder's stack.
const NAME_BYTES_MAX: usize = 4096;
/// Most folders and links of a layer: so many are remembered.
const REMEMBERED_MAX: usize = 1 << 20;
/// Most entries of a layer, with the folders that are added: the builder has all of them in memory.
const ENTRIES_MAX: u64 = 2 << 20;
/// Most bytes that the builder has to remember of them: names, what links lead to, extended attributes.
const REMEMBERED_BYTES_MAX: u64 = 512 << 20;
/// The builder leaves these out.
const STARGZ: [&str; 3] = ["stargz.index.json", ".prefetch.landmark", ".no.prefetch.landmark"];
/// The builder takes the map of the holes for the content.
const SPARSE: &str = "it has a file with holes, in a format of GNU tar";

/// What an archive has told of itself.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Folders that are there only because something is in them.
    pub(super) implied: BTreeSet<PathBuf>,
    /// Why the archive cannot be read by the builder as it is.
    pub(super) incomplete: Option<String>,
}

fn wrong(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

/// Copies an archive, and adds what it lacks.
pub(super) fn complete(mut reader: impl Read, into: &mut impl Write) -> io::Result<Contents> {
    complete_within(&mut reader, into, Room::default())
}

/// How much a layer may have yet.
struct Room {
    entries: u64,
    bytes: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            entries: ENTRIES_MAX,
            bytes: REMEMBERED_BYTES_MAX,
        }
    }
}

impl Room {
    /// Takes an entry of which so many bytes are remembered.
    fn take(&mut self, bytes: usize) -> io::Result<()> {
        self.entries = self
            .entries
            .checked_sub(1)
            .ok_or_else(|| wrong(format!("it has more than {ENTRIES_MAX} files and folders")))?;
        self.bytes = self.bytes.checked_sub(bytes as u64).ok_or_else(|| {
            wrong(format!(
                "its names and extended attributes have more than {REMEMBERED_BYTES_MAX} bytes"
            ))
        })?;
        Ok(())
    }
}

fn complete_within(reader: &mut impl Read, into: &mut impl Write, mut room: Room) -> io::Result<Contents> {
    let mut names = Names::new();
    while let Some(entry) = Entry::read(reader)? {
        let kind = entry.header.entry_type();
        if kind.is_pax_global_extensions() {
            room.take(0)?;
            skip(reader, padded(entry.size)?)?;
            let reason = "it has a record that concerns the whole archive (pax_global_header)";
            names.contents.incomplete = Some(reason.to_owned());
            continue;
        }
        if kind.is_gnu_sparse() {
            return Err(wrong(SPARSE));
        }
        let path = entry.path()?;
        room.take(path.as_os_str().len() + entry.extended)?;
        for folder in names.enter(&path, kind)? {
            room.take(folder.as_os_str().len())?;
            into.write_all(&folder_entry(&folder)?)?;
        }
        into.write_all(&entry.bytes)?;
        copy(reader, into, padded(entry.size)?)?;
    }
    into.write_all(&[0; 2 * BLOCK_BYTES])?;
    // What comes behind the end is read, because only so it is known to be unpacked well.
    io::copy(reader, &mut io::sink())?;
    Ok(names.contents)
}

fn padded(size: u64) -> io::Result<u64> {
    let padded = size.checked_next_multiple_of(BLOCK_BYTES as u64);
    padded.ok_or_else(|| wrong("it has an entry of an impossible size"))
}

fn copy(reader: &mut impl Read, into: &mut impl Write, size: u64) -> io::Result<()> {
    if io::copy(&mut reader.take(size), into)? < size {
        return Err(wrong("it ends within an entry"));
    }
    Ok(())
}

fn skip(reader: &mut impl Read, size: u64) -> io::Result<()> {
    copy(reader, &mut io::sink(), size)
}

fn folder_entry(path: &Path) -> io::Result<Vec<u8>> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, path, io::empty())?;
    Ok(archive.get_ref().clone())
}

/// A header with its extensions.
struct Entry {
    /// All of them, as they came.
    bytes: Vec<u8>,
    header: Header,
    /// Bytes of the content behind it.
    size: u64,
    /// Bytes of the extensions.
    extended: usize,
    /// A name that did not fit into the header.
    long_name: Option<Vec<u8>>,
    pax_name: Option<Vec<u8>>,
}

impl Entry {
    fn read(reader: &mut impl Read) -> io::Result<Option<Self>> {
        let (mut bytes, mut extended) = (Vec::new(), 0);
        let (mut long_name, mut pax_name, mut pax_size) = (None, None, None);
        for _ in 0..=EXTENSIONS_MAX {
            let Some(header) = read_header(reader)? else {
                return Ok(None);
            };
            let size = header.entry_size()?;
            let kind = header.entry_type();
            bytes.extend_from_slice(header.as_bytes());
            let extends = kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions();
            if !extends {
                let size = pax_size.unwrap_or(size);
                return Ok(Some(Self {
                    bytes,
                    header,
                    size,
                    extended,
                    long_name,
                    pax_name,
                }));
            }
            if size > EXTENSION_BYTES_MAX {
                return Err(wrong("it has a header that is too long"));
            }
            let start = bytes.len();
            copy(reader, &mut bytes, padded(size)?)?;
            let length = usize::try_from(size).unwrap_or(usize::MAX);
            let content = bytes.get(start..).and_then(|rest| rest.get(..length));
            let content = content.unwrap_or_default();
            extended += content.len();
            if kind.is_gnu_longname() {
                let name = content.strip_suffix(&[0]).unwrap_or(content);
                long_name = Some(name.to_vec());
            } else if kind.is_pax_local_extensions() {
                (pax_name, pax_size) = look(content)?;
            }
        }
        Err(wrong("it has an entry with too many extensions"))
    }

    /// Its name within the root, without what means nothing.
    fn path(&self) -> io::Result<PathBuf> {
        let own = || self.header.path_bytes().into_owned();
        let name = self.long_name.clone().or_else(|| self.pax_name.clone());
        let name = name.unwrap_or_else(own);
        if name.len() > NAME_BYTES_MAX {
            return Err(wrong("it has a name that is too long"));
        }
        let mut path = PathBuf::new();
        for part in Path::new(OsStr::from_bytes(&name)).components() {
            match part {
                Component::Normal(part) => path.push(part),
                Component::ParentDir => {
                    let shown = String::from_utf8_lossy(&name);
                    return Err(wrong(format!(
                        "it has a name that leads out of its folder: {shown}"
                    )));
                }
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Ok(path)
    }
}

/// The next header; none at the archive's end.
fn read_header(reader: &mut impl Read) -> io::Result<Option<Header>> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    reader.take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let block: [u8; BLOCK_BYTES] = block.try_into().map_err(|_| wrong("it ends within a header"))?;
    let header = Header::from_byte_slice(&block).clone();
    // The sum counts the bytes of its own field as spaces.
    let own: u32 = block.iter().skip(148).take(8).map(|byte| u32::from(*byte)).sum();
    let sum = block.iter().map(|byte| u32::from(*byte)).sum::<u32>() - own + 8 * u32::from(b' ');
    if header.cksum()? != sum {
        return Err(wrong("it is no archive, or damaged"));
    }
    Ok(Some(header))
}

/// The name and the size that an extended header gives.
fn look(content: &[u8]) -> io::Result<(Option<Vec<u8>>, Option<u64>)> {
    let (mut name, mut size) = (None, None);
    for extension in PaxExtensions::new(content) {
        let extension = extension?;
        match extension.key_bytes() {
            key if key.starts_with(b"GNU.sparse.") => return Err(wrong(SPARSE)),
            b"path" => name = Some(extension.value_bytes().to_vec()),
            b"size" => {
                let text = std::str::from_utf8(extension.value_bytes()).ok();
                size = Some(
                    text.and_then(|text| text.parse().ok())
                        .ok_or_else(|| wrong("it has a size that is none"))?,
                );
            }
            _ => {}
        }
    }
    Ok((name, size))
}

/// What was in the archive so far.
struct Names {
    folders: BTreeSet<PathBuf>,
    links: BTreeSet<PathBuf>,
    /// The last name of each folder in order: the builder keeps count of no other.
    last: BTreeMap<PathBuf, OsString>,
    contents: Contents,
}

impl Names {
    fn new() -> Self {
        let root = BTreeSet::from([PathBuf::new()]);
        Self {
            folders: root.clone(),
            links: BTreeSet::new(),
            last: BTreeMap::new(),
            contents: Contents {
                implied: root,
                incomplete: None,
            },
        }
    }

    /// Takes note of an entry. Gives the folders that it needs before, the outermost first.
    fn enter(&mut self, path: &Path, kind: EntryType) -> io::Result<Vec<PathBuf>> {
        if STARGZ.iter().any(|name| path == Path::new(name)) {
            return Ok(Vec::new());
        }
        let mut missing: Vec<_> = path
            .ancestors()
            .skip(1)
            .take_while(|folder| !self.folders.contains(*folder))
            .map(Path::to_owned)
            .collect();
        missing.reverse();
        for folder in &missing {
            if self.links.contains(folder) {
                let (path, folder) = (path.display(), folder.display());
                return Err(wrong(format!("it has {path}, but {folder} is a link")));
            }
            if self.note(folder) {
                let folder = folder.display();
                let reason = format!("it does not list the folder {folder} before what is in it");
                self.contents.incomplete = Some(reason);
            }
            self.folders.insert(folder.clone());
            self.contents.implied.insert(folder.clone());
        }
        self.note(path);
        if kind.is_dir() {
            self.folders.insert(path.to_owned());
            self.links.remove(path);
            self.contents.implied.remove(path);
        } else if kind.is_symlink() {
            self.links.insert(path.to_owned());
            self.folders.remove(path);
        }
        if self.folders.len() + self.links.len() > REMEMBERED_MAX {
            return Err(wrong(format!(
                "it has more than {REMEMBERED_MAX} folders and links"
            )));
        }
        Ok(missing)
    }

    /// Whether another name of its folder comes behind this one.
    fn note(&mut self, path: &Path) -> bool {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return false;
        };
        match self.last.get_mut(folder) {
            Some(last) if *last > *name => true,
            Some(last) => {
                name.clone_into(last);
                false
            }
            None => {
                self.last.insert(folder.to_owned(), name.to_owned());
                false
            }
        }
    }
}

/// The body of the fuzz target for archives: whatever is taken passes a second time as it is, within what was promised of
/// it.
///
/// # Panics
/// If that does not hold.
pub fn fuzz_archive(data: &[u8]) {
    fuzz_once(data);
    // Few mistakes come past the sums: the same without wrong ones.
    let mut mended = data.to_vec();
    for block in mended.as_chunks_mut::<BLOCK_BYTES>().0 {
        let mut header = Header::from_byte_slice(block).clone();
        header.set_cksum();
        *block = *header.as_bytes();
    }
    fuzz_once(&mended);
}

fn fuzz_once(data: &[u8]) {
    const ENTRIES: u8 = 64;
    let room = || Room {
        entries: ENTRIES.into(),
        bytes: 16 << 10,
    };
    let mut out = Vec::new();
    let Ok(first) = complete_within(&mut &*data, &mut out, room()) else {
        return;
    };
    // Its end may have been missing; a folder that was added has a header, and perhaps a long name.
    let added = usize::from(ENTRIES) * (3 * BLOCK_BYTES + NAME_BYTES_MAX.next_multiple_of(BLOCK_BYTES));
    assert!(out.len() <= data.len() + 2 * BLOCK_BYTES + added);
    let inside = |folder: &PathBuf| {
        let mut parts = folder.components();
        parts.all(|part| matches!(part, Component::Normal(_)))
    };
    assert!(first.implied.iter().all(inside));
    let mut again = Vec::new();
    let second = complete_within(&mut &*out, &mut again, room()).expect("it was made whole");
    assert!(again == out, "nothing is missing any more");
    assert!(second.implied.is_subset(&first.implied));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_an_archive_or_an_error() {
        darter_testkit::fuzz::check("archive", fuzz_archive);
    }

    /// So many entries again and again, without ever being all there.
    struct Endless {
        entry: Vec<u8>,
        at: usize,
    }

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.at %= self.entry.len();
            let count = (&self.entry[self.at..]).read(buffer)?;
            self.at += count;
            Ok(count)
        }
    }

    fn endless(kind: EntryType, name: &str) -> io::Error {
        let mut entry = archive(&[(kind, name)]);
        entry.truncate(entry.len() - 2 * BLOCK_BYTES);
        let room = Room {
            entries: 500,
            bytes: 1 << 20,
        };
        complete_within(&mut Endless { entry, at: 0 }, &mut io::sink(), room).unwrap_err()
    }

    #[test]
    fn a_layer_of_nothing_but_names_ends() {
        let told = endless(EntryType::Regular, "a").to_string();
        assert!(told.contains("2097152 files"), "{told}");
        let told = endless(EntryType::Regular, &"long".repeat(900)).to_string();
        assert!(told.contains("names and extended attributes"), "{told}");
        let told = endless(EntryType::Regular, &"a/".repeat(900)).to_string();
        assert!(told.contains("2097152 files"), "{told}");
        let told = endless(EntryType::XGlobalHeader, "a").to_string();
        assert!(told.contains("2097152 files"), "{told}");
    }

    fn archive(entries: &[(EntryType, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (kind, name) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o700);
            let content: &[u8] = if kind.is_file() { b"content" } else { b"" };
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, name, content).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn through(bytes: &[u8]) -> io::Result<(Vec<u8>, Contents)> {
        let mut out = Vec::new();
        let contents = complete(bytes, &mut out)?;
        Ok((out, contents))
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(bytes);
        let entries = archive.entries().unwrap();
        let name = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
            let path = entry.unwrap().path().unwrap().into_owned();
            path.display().to_string()
        };
        entries.map(name).collect()
    }

    use EntryType::{Directory, Regular, Symlink};

    #[test]
    fn a_whole_archive_passes_as_it_is() {
        let long = "long".repeat(50);
        let whole = archive(&[
            (Directory, "./"),
            (Directory, "a"),
            (Regular, "a/b"),
            (Regular, &long),
        ]);
        let (out, contents) = through(&whole).unwrap();
        assert!(out == whole);
        assert!(
            contents.implied.is_empty() && contents.incomplete.is_none(),
            "{contents:?}"
        );
        assert_eq!(through(b"").unwrap().0.len(), 2 * BLOCK_BYTES);
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let deep = format!("a/{}/c", "b".repeat(120));
        let (out, contents) =
            through(&archive(&[(Regular, &deep), (Regular, "a/x"), (Directory, "z")])).unwrap();
        let parent = deep.trim_end_matches("/c");
        assert_eq!(names(&out), ["a", parent, &deep, "a/x", "z"]);
        let implied: Vec<_> = contents
            .implied
            .iter()
            .map(|path| path.to_str().unwrap())
            .collect();
        assert_eq!(implied, ["", "a", parent]);
        assert!(
            contents.incomplete.is_none(),
            "the builder has no trouble with it"
        );
        let (_, contents) = through(&archive(&[
            (Regular, "usr"),
            (Regular, "etc/b"),
            (Directory, "etc"),
        ]))
        .unwrap();
        assert!(contents.incomplete.unwrap().contains("etc"));
        assert_eq!(contents.implied.len(), 1, "listed later");
    }

    #[test]
    fn records_of_the_whole_archive_are_left_out() {
        let whole = archive(&[(EntryType::XGlobalHeader, "pax_global_header"), (Regular, "a")]);
        let (out, contents) = through(&whole).unwrap();
        assert_eq!(names(&out), ["a"]);
        assert!(contents.incomplete.is_some());
    }

    #[test]
    fn what_would_be_lost_is_an_error() {
        let link = archive(&[(Symlink, "lib"), (Regular, "lib/a")]);
        let mut damaged = archive(&[(Regular, "a")]);
        damaged[0] ^= 1;
        let short = archive(&[(Regular, "a")])[..BLOCK_BYTES + 3].to_vec();
        let sparse = archive(&[(EntryType::GNUSparse, "a")]);
        let mut holes = tar::Builder::new(Vec::new());
        holes
            .append_pax_extensions([("GNU.sparse.major", b"1".as_slice())])
            .unwrap();
        let holes = [holes.get_ref().clone(), archive(&[(Regular, "a")])].concat();
        let mut out = archive(&[(Regular, "aa/b")]);
        out[..2].copy_from_slice(b"..");
        let mut header = Header::from_byte_slice(out[..BLOCK_BYTES].try_into().unwrap()).clone();
        header.set_cksum();
        out[..BLOCK_BYTES].copy_from_slice(header.as_bytes());
        for (bytes, told) in [
            (link, "is a link"),
            (damaged, "damaged"),
            (short, "ends within"),
            (sparse, "holes"),
            (holes, "holes"),
            (out, "leads out"),
        ] {
            let error = through(&bytes).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
