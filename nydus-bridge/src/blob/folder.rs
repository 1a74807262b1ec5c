//! Blobs as files of one folder, each named by its hash in hexadecimal, as `nydus-image` writes them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use darter_service::net::BoxFuture;
use darter_service::supervise::Tasks;
use darter_types::{ByteRange, Digest};

use super::{BlobError, BlobSource};

/// A folder of blobs.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    tasks: Tasks,
}

impl Folder {
    /// The blobs in `path`; files are read by `tasks`.
    pub fn new(path: &Path, tasks: Tasks) -> Self {
        Self {
            path: path.to_owned(),
            tasks,
        }
    }
}

impl BlobSource for Folder {
    fn read<'a>(&'a self, blob: &'a Digest, range: ByteRange) -> BoxFuture<'a, Result<Bytes, BlobError>> {
        let path = self.path.join(blob.hex());
        Box::pin(async move {
            let failed = |error: io::Error| BlobError::File {
                path: path.display().to_string().into(),
                range,
                error: Arc::new(error),
            };
            let file = path.clone();
            self.tasks
                .blocking("read of a blob file", move || read(&file, range))
                .await
                .map_err(|error| failed(io::Error::other(error)))?
                .map_err(failed)
        })
    }
}

/// The length is checked before memory is taken: a bootstrap may name any range.
fn read(path: &Path, range: ByteRange) -> io::Result<Bytes> {
    let file = File::open(path)?;
    if range.end > file.metadata()?.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let length = usize::try_from(range.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use darter_types::Algorithm;

    #[tokio::test]
    async fn ranges_are_read_and_what_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::of(Algorithm::Sha256, b"0123456789");
        std::fs::write(dir.path().join(digest.hex()), b"0123456789").unwrap();
        let folder = Folder::new(dir.path(), Tasks::new());
        assert_eq!(folder.read(&digest, ByteRange::new(2, 5)).await.unwrap(), "234");
        let beyond = folder.read(&digest, ByteRange::new(8, 11)).await.unwrap_err();
        assert!(!beyond.is_passing());
        let missing = Digest::of(Algorithm::Sha256, b"other");
        assert!(folder.read(&missing, ByteRange::new(0, 1)).await.is_err());
    }
}
