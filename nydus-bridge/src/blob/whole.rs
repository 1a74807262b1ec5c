//! A blob as a file: fetched whole, by ranges, and proved.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::path::Path;

use darter_types::{ByteRange, Digest, PieceHasher};
use thiserror::Error;

use super::{BlobError, BlobSource};

/// Bytes that are asked for at once.
const REQUEST_BYTES: u64 = 8 << 20;

/// Why there is no such file.
#[derive(Debug, Error)]
pub(crate) enum WholeError {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("what came for {wanted} has the digest {found}")]
    Digest { wanted: Digest, found: Digest },
}

/// A blob of `length` bytes in a file without a name in `folder`, at its beginning. `came` hears of the bytes of each range.
pub(crate) async fn fetch(
    blob: &Digest,
    length: u64,
    source: &dyn BlobSource,
    folder: &Path,
    came: impl Fn(u64) + Send,
) -> Result<File, WholeError> {
    let mut file = tempfile::tempfile_in(folder)?;
    let mut hasher = PieceHasher::start(blob.algorithm());
    let mut start = 0;
    while start < length {
        let range = ByteRange::new(start, length.min(start + REQUEST_BYTES));
        let bytes = source.read(blob, range).await?;
        hasher.update(&bytes);
        file.write_all(&bytes)?;
        came(range.len());
        start = range.end;
    }
    let (wanted, found) = (*blob, hasher.digest());
    if found != wanted {
        return Err(WholeError::Digest { wanted, found });
    }
    file.rewind()?;
    Ok(file)
}
