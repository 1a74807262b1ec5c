//! The metadata of all layers as one bootstrap, what lies under something else or is whited out left out (`overlay`), in the
//! layer that the image carries it in.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use darter_types::{Algorithm, Digest, PieceHasher};
use flate2::Compression;
use flate2::write::GzEncoder;
use nydus_api::ConfigV2;
use nydus_builder::{
    ArtifactStorage, BlobContext, BlobManager, Bootstrap, BootstrapContext, BuildContext, ChunkSource,
    Overlay, Tree,
};
use nydus_rafs::metadata::RafsSuper;

use super::error::ConvertError;
use super::manifest::Content;
use super::{Options, layer, overlay};

/// Where readers look for the bootstrap.
const FOLDER: &str = "image";
const NAME: &str = "image/image.boot";

/// One layer's metadata.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) bootstrap: PathBuf,
    /// The blob that readers ask for; none, where the layer has no bytes.
    pub(super) blob_id: Option<String>,
    /// Folders that the layer does not list.
    pub(super) implied: BTreeSet<PathBuf>,
}

/// Merges layers, lowest first. Gives the layer with the result as a file in `folder`, and the digest of what is packed in
/// it.
pub(super) fn merge(
    parts: &[Part],
    folder: &Path,
    options: &Options,
) -> Result<(PathBuf, Content, Digest), ConvertError> {
    let merged = folder.join("bootstrap");
    write(parts, &merged, options).map_err(|error| ConvertError::Merge(format!("{error:#}")))?;
    let path = folder.join("bootstrap.tar.gz");
    let (content, diff_id) = pack(&merged, &path)?;
    Ok((path, content, diff_id))
}

/// Writes the bootstrap of all layers.
fn write(parts: &[Part], to: &Path, options: &Options) -> anyhow::Result<()> {
    let mut context = layer::context(PathBuf::new(), options);
    // Of its files nothing is read here.
    context.configuration = Arc::new(ConfigV2::default());
    let mut blobs = Vec::new();
    let mut merged: Option<Tree> = None;
    for (number, part) in parts.iter().enumerate() {
        let mut upper = load(part, u16::try_from(number)?, &mut context, &mut blobs)?;
        match &mut merged {
            Some(lower) => overlay::lay(lower, upper, Path::new(""), &part.implied),
            None => {
                overlay::reveal(&mut upper);
                merged = Some(upper);
            }
        }
    }
    let tree = merged.context("it has no layers")?;
    let manager = only_used(&tree, &blobs, &context)?;
    let storage = ArtifactStorage::SingleFile(to.to_owned());
    let mut output = BootstrapContext::new(Some(storage.clone()), false)?;
    let mut bootstrap = Bootstrap::new(tree)?;
    bootstrap.build(&mut context, &mut output)?;
    let table = manager.to_blob_table(&context)?;
    bootstrap.dump(&mut context, &mut Some(storage), &mut output, &table)
}

/// The tree of one layer, whose chunks are in `blobs`, by their places there.
fn load(
    part: &Part,
    number: u16,
    context: &mut BuildContext,
    blobs: &mut Vec<BlobContext>,
) -> anyhow::Result<Tree> {
    let (layer, _) = RafsSuper::load_from_file(&part.bootstrap, Arc::new(ConfigV2::default()), false)?;
    context.compressor = layer.meta.get_compressor();
    context.digester = layer.meta.get_digester();
    context.explicit_uidgid = layer.meta.explicit_uidgid();
    let mut places = Vec::new();
    for blob in layer.superblock.get_blob_infos() {
        let mut blob = BlobContext::from(context, &blob, ChunkSource::Parent)?;
        // A bootstrap does not know the digest of the blob that was finished after it.
        blob.blob_id = part.blob_id.clone().unwrap_or_default();
        let known = blobs.iter().position(|known| known.blob_id == blob.blob_id);
        places.push(known.unwrap_or(blobs.len()));
        if known.is_none() {
            blobs.push(blob);
        }
    }
    anyhow::ensure!(places.len() <= 1, "a layer has {} blobs", places.len());
    let tree = Tree::from_bootstrap(&layer, &mut ())?;
    tree.walk_bfs(true, &mut |tree| {
        let mut node = tree.borrow_mut_node();
        for chunk in &mut node.chunks {
            let place = places.first().context("a layer has a file, and no blob")?;
            chunk.set_blob_index(u32::try_from(*place)?);
        }
        // Two layers may have the same inode number: it means the same file in one layer alone.
        node.layer_idx = number;
        node.overlay = Overlay::UpperAddition;
        Ok(())
    })?;
    Ok(tree)
}

/// The blobs that a tree has chunks in; the chunks get their places among those.
fn only_used(tree: &Tree, blobs: &[BlobContext], context: &BuildContext) -> anyhow::Result<BlobManager> {
    let mut manager = BlobManager::new(context.digester, false);
    let mut places = vec![None; blobs.len()];
    tree.walk_bfs(true, &mut |tree| {
        for chunk in &mut tree.borrow_mut_node().chunks {
            let former = chunk.inner.blob_index() as usize;
            let (Some(blob), Some(place)) = (blobs.get(former), places.get_mut(former)) else {
                anyhow::bail!("a chunk is in no blob");
            };
            let place = *place.get_or_insert_with(|| {
                manager.add_blob(blob.clone());
                manager.len() - 1
            });
            chunk.set_blob_index(u32::try_from(place)?);
        }
        Ok(())
    })?;
    Ok(manager)
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
