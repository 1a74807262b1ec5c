//! From the layer that holds the metadata to a file: fetched whole, proved, unpacked, with bounds on both lengths.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use darter_service::supervise::Tasks;
use darter_types::Digest;
use thiserror::Error;

use super::manifest::Content;
use crate::blob::{self, BlobError, BlobSource, WholeError};

/// Longest layer with metadata: some ten million files.
const LAYER_BYTES_MAX: u64 = 1 << 30;
/// Longest bootstrap. The format itself ends at twice that.
const BOOTSTRAP_BYTES_MAX: u64 = 1 << 30;
/// Entries of the layer that are looked at: the bootstrap is among the first.
const ENTRIES_MAX: usize = 64;
/// Where the bootstrap is in the layer, now and in old images.
pub(crate) const BOOTSTRAP_NAMES: [&str; 2] = ["image/image.boot", "image.boot"];
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Why there is no bootstrap.
#[derive(Debug, Error)]
pub enum BootstrapError {
    /// The layer cannot be had.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The layer is longer than any that makes sense.
    #[error("the layer with the image's metadata has {0} bytes, the limit is {LAYER_BYTES_MAX}")]
    TooLong(u64),
    /// The layer is another one than the manifest names.
    #[error("the layer with the image's metadata has the digest {found}, not {wanted}")]
    Digest {
        /// What the manifest names.
        wanted: Digest,
        /// What came.
        found: Digest,
    },
    /// The layer does not hold a bootstrap.
    #[error("the layer {0} has no image/image.boot of at most {BOOTSTRAP_BYTES_MAX} bytes")]
    Missing(Digest),
    /// A local file fails, or the layer is no archive.
    #[error("cannot unpack the image's metadata: {0}")]
    Io(#[from] io::Error),
}

/// A bootstrap as a file without a name, so that nothing stays of it however the process ends.
#[derive(Debug)]
pub struct Bootstrap {
    path: PathBuf,
    _file: File,
}

impl Bootstrap {
    /// Fetches a layer and unpacks the bootstrap in it into a file in `folder`.
    ///
    /// # Errors
    /// See [`BootstrapError`].
    pub async fn fetch(
        layer: &Content,
        source: &dyn BlobSource,
        folder: &Path,
        tasks: &Tasks,
    ) -> Result<Self, BootstrapError> {
        let (file, digest) = (download(layer, source, folder).await?, layer.digest);
        let folder = folder.to_owned();
        let unpacking = tasks.blocking("unpacking of a bootstrap", move || unpack(file, digest, &folder));
        let file = unpacking.await.map_err(io::Error::other)??;
        Ok(Self {
            path: PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
            _file: file,
        })
    }

    /// The file, for this process, as long as this value is there.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The layer in a file without a name, at its beginning.
async fn download(layer: &Content, source: &dyn BlobSource, folder: &Path) -> Result<File, BootstrapError> {
    if layer.size > LAYER_BYTES_MAX {
        return Err(BootstrapError::TooLong(layer.size));
    }
    Ok(blob::fetch(&layer.digest, layer.size, source, folder, |_| {}).await?)
}

impl From<WholeError> for BootstrapError {
    fn from(error: WholeError) -> Self {
        match error {
            WholeError::Blob(error) => Self::Blob(error),
            WholeError::Io(error) => Self::Io(error),
            WholeError::Digest { wanted, found } => Self::Digest { wanted, found },
        }
    }
}

/// The first entry that is a bootstrap, as a file.
fn unpack(mut layer: File, digest: Digest, folder: &Path) -> Result<File, BootstrapError> {
    let mut magic = [0; 2];
    let zipped = layer.read_exact(&mut magic).is_ok() && magic == GZIP;
    layer.rewind()?;
    let reader = BufReader::new(layer);
    let reader: Box<dyn Read> = if zipped {
        Box::new(flate2::bufread::MultiGzDecoder::new(reader))
    } else {
        Box::new(reader)
    };
    // Other entries are read over, and may be anything.
    let mut archive = tar::Archive::new(reader.take(2 * BOOTSTRAP_BYTES_MAX));
    for entry in archive.entries()?.take(ENTRIES_MAX) {
        let mut entry = entry?;
        let path: PathBuf = entry.path()?.components().collect();
        let path = path.strip_prefix(".").unwrap_or(&path);
        let named = BOOTSTRAP_NAMES.iter().any(|name| path == Path::new(name));
        if named && entry.size() <= BOOTSTRAP_BYTES_MAX {
            let mut file = tempfile::tempfile_in(folder)?;
            io::copy(&mut entry, &mut file)?;
            return Ok(file);
        }
    }
    Err(BootstrapError::Missing(digest))
}

#[cfg(test)]
mod tests;
