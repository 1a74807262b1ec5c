//! Files, written whole or not at all: who reads them meanwhile sees the old one or the new one.

use std::fs::{self, DirBuilder, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rcgen::KeyPair;
use tempfile::NamedTempFile;

use crate::Error;

const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;

/// Where a certificate and its key go.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) cert_file: PathBuf,
    pub(crate) key_file: PathBuf,
    replace: bool,
}

impl Place {
    /// `<dir>/<name>.pem` and `<dir>/<name>.key`; with `replace`, whatever is there.
    ///
    /// # Errors
    /// One of them is there and must not be replaced.
    pub(crate) fn new(dir: &Path, name: &str, replace: bool) -> Result<Self, Error> {
        let place = Self {
            cert_file: dir.join(format!("{name}.pem")),
            key_file: dir.join(format!("{name}.key")),
            replace,
        };
        for path in [&place.key_file, &place.cert_file] {
            if !replace && path.symlink_metadata().is_ok() {
                return Err(Error::Exists(path.clone()));
            }
        }
        Ok(place)
    }

    /// Writes both, the key first: a certificate without its key is of no use to anybody.
    pub(crate) fn write(&self, certificate: &str, key: &KeyPair) -> Result<(), Error> {
        self.put(&self.key_file, &key.serialize_pem(), KEY_MODE)?;
        self.put(&self.cert_file, certificate, CERTIFICATE_MODE)
    }

    fn put(&self, path: &Path, text: &str, mode: u32) -> Result<(), Error> {
        let failed = |source| Error::Write {
            path: path.to_owned(),
            source,
        };
        let dir = path.parent().unwrap_or(Path::new("."));
        make(dir).map_err(failed)?;
        // With mode 0600, whatever the process would otherwise make.
        let mut file = NamedTempFile::new_in(dir).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.as_file()
            .set_permissions(Permissions::from_mode(mode))
            .and_then(|()| file.as_file().sync_all())
            .map_err(failed)?;
        if self.replace {
            file.persist(path).map_err(|error| failed(error.error))?;
        } else {
            file.persist_noclobber(path)
                .map_err(|error| match error.error.kind() {
                    std::io::ErrorKind::AlreadyExists => Error::Exists(path.to_owned()),
                    _ => failed(error.error),
                })?;
        }
        Ok(())
    }
}

/// A directory for keys; one that is there stays as it is.
fn make(dir: &Path) -> std::io::Result<()> {
    if dir.as_os_str().is_empty() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

pub(crate) fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|error| Error::File {
        path: path.to_owned(),
        reason: format!("cannot be read: {error}"),
    })
}
