//! The metadata of all layers as one bootstrap, what lies under something else or is whited out left out, in the layer that
//! the image carries it in.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use darter_types::{Algorithm, Digest, PieceHasher};
use flate2::Compression;
use flate2::write::GzEncoder;
use nydus_api::ConfigV2;
use nydus_builder::{ArtifactStorage, Merger};

use super::Options;
use super::error::ConvertError;
use super::layer;
use super::manifest::Content;

/// Where readers look for the bootstrap.
const FOLDER: &str = "image";
const NAME: &str = "image/image.boot";

/// Merges bootstraps, each with the blob that it names, lowest first. Gives the layer with the result as a file in `folder`,
/// and the digest of what is packed in it.
pub(super) fn merge(
    layers: &[(PathBuf, String)],
    folder: &Path,
    options: &Options,
) -> Result<(PathBuf, Content, Digest), ConvertError> {
    let (paths, ids) = layers.iter().cloned().unzip();
    let merged = folder.join("bootstrap");
    let mut context = layer::context(PathBuf::new(), options);
    // Of its files nothing is read here.
    context.configuration = Arc::new(ConfigV2::default());
    Merger::merge(
        &mut context,
        None,
        paths,
        None,
        Some(ids),
        None,
        None,
        None,
        ArtifactStorage::SingleFile(merged.clone()),
        None,
        Arc::new(ConfigV2::default()),
    )
    .map_err(|error| ConvertError::Merge(format!("{error:#}")))?;
    let path = folder.join("bootstrap.tar.gz");
    let (content, diff_id) = pack(&merged, &path)?;
    Ok((path, content, diff_id))
}

/// Counts and hashes what is written.
struct Hashed<W> {
    inner: W,
    hasher: PieceHasher,
}

impl<W: Write> Hashed<W> {
    fn new(inner: W) -> Self {
        let hasher = PieceHasher::start(Algorithm::Sha256);
        Self { inner, hasher }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or(bytes));
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// An ordinary layer with the bootstrap in it. The same bootstrap gives the same layer.
fn pack(bootstrap: &Path, path: &Path) -> io::Result<(Content, Digest)> {
    let packed = Hashed::new(BufWriter::new(File::create(path)?));
    let mut archive = tar::Builder::new(Hashed::new(GzEncoder::new(packed, Compression::default())));
    let mut header = header(tar::EntryType::Directory, 0o755, 0);
    archive.append_data(&mut header, FOLDER, io::empty())?;
    let file = File::open(bootstrap)?;
    header = self::header(tar::EntryType::Regular, 0o444, file.metadata()?.len());
    archive.append_data(&mut header, NAME, file)?;
    let unpacked = archive.into_inner()?;
    let diff_id = unpacked.hasher.digest();
    let mut packed = unpacked.inner.finish()?;
    packed.flush()?;
    let content = Content {
        digest: packed.hasher.digest(),
        size: std::fs::metadata(path)?.len(),
    };
    Ok((content, diff_id))
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_bootstrap_is_packed_as_readers_look_for_it_and_always_alike() {
        let dir = tempfile::tempdir().unwrap();
        let bootstrap = dir.path().join("bootstrap");
        std::fs::write(&bootstrap, b"metadata").unwrap();
        let first = pack(&bootstrap, &dir.path().join("first")).unwrap();
        let second = pack(&bootstrap, &dir.path().join("second")).unwrap();
        assert_eq!(first, second);

        let packed = std::fs::read(dir.path().join("first")).unwrap();
        assert_eq!(first.0, Content::of(&packed));
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&*packed)
            .read_to_end(&mut unpacked)
            .unwrap();
        assert_eq!(first.1, Digest::of(Algorithm::Sha256, &unpacked));
        let mut archive = tar::Archive::new(&*unpacked);
        let mut entries = archive.entries().unwrap().map(Result::unwrap);
        assert_eq!(entries.next().unwrap().path_bytes().as_ref(), b"image");
        let mut file = entries.next().unwrap();
        assert_eq!(file.path_bytes().as_ref(), b"image/image.boot");
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content, "metadata");
    }
}
