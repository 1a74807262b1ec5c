//! A worker's end of the line to its guardian, which is its standard input.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::descriptors::{receive, send};
use super::{FRESH, PACKET_BYTES_MAX};
use crate::fs::OpenImage;
use crate::mount::{Agreed, Kept, Mount, Over};

/// A worker's end of the line.
#[derive(Debug)]
pub struct Line(OwnedFd);

/// What a worker leaves to the next one.
#[derive(Debug)]
pub struct Legacy {
    /// The mount.
    pub kept: Kept,
    /// The image's metadata, which may have no name any more.
    pub bootstrap: File,
    /// Where it is mounted.
    pub path: PathBuf,
    /// The image's name.
    pub name: String,
    /// What it is, whatever its name.
    pub key: String,
}

#[derive(Serialize, Deserialize)]
struct Told {
    agreed: Agreed,
    mark: Option<PathBuf>,
    over: Option<Over>,
    path: PathBuf,
    name: String,
    key: String,
}

impl Legacy {
    /// What has to be left of a mount of `image`.
    ///
    /// # Errors
    /// There are too many open files.
    pub fn of(mount: &Mount, image: &OpenImage, name: &str, key: &str) -> io::Result<Self> {
        Ok(Self {
            kept: mount.kept()?,
            bootstrap: image.bootstrap().try_clone()?,
            path: mount.path().to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
        })
    }
}

impl Line {
    /// The line, in a process that a guardian started.
    ///
    /// # Errors
    /// There is none.
    pub fn of_this_process() -> io::Result<Self> {
        Ok(Self(io::stdin().as_fd().try_clone_to_owned()?))
    }

    #[cfg(test)]
    pub(super) fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// What the worker before left; nothing for the first one. To be asked once, at the start.
    ///
    /// # Errors
    /// The guardian is gone, or what it says makes no sense.
    pub fn legacy(&self) -> io::Result<Option<Legacy>> {
        let mut packet = vec![0; PACKET_BYTES_MAX];
        let (length, descriptors) = receive(&self.0, &mut packet)?;
        let told = packet.get(..length).unwrap_or_default();
        if told == FRESH {
            return Ok(None);
        }
        let told: Told = serde_json::from_slice(told)?;
        let [connection, bootstrap] = <[OwnedFd; 2]>::try_from(descriptors)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "two descriptors were expected"))?;
        let kept = Kept {
            connection,
            agreed: told.agreed,
            mark: told.mark,
            over: told.over,
        };
        Ok(Some(Legacy {
            kept,
            bootstrap: bootstrap.into(),
            path: told.path,
            name: told.name,
            key: told.key,
        }))
    }

    /// Leaves all this to the next worker, if there is to be one; says besides that this one serves.
    ///
    /// # Errors
    /// The guardian is gone.
    pub fn leave(&self, legacy: &Legacy) -> io::Result<()> {
        let told = serde_json::to_vec(&Told {
            agreed: legacy.kept.agreed,
            mark: legacy.kept.mark.clone(),
            over: legacy.kept.over.clone(),
            path: legacy.path.clone(),
            name: legacy.name.clone(),
            key: legacy.key.clone(),
        })?;
        let descriptors = [legacy.kept.connection.as_fd(), legacy.bootstrap.as_fd()];
        send(&self.0, &told, &descriptors).map(|_| ())
    }
}
