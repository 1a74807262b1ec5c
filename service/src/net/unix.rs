//! A listening socket file: nobody but its owner and group may ever connect, and it goes with its listener.

use std::fs::{Metadata, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use super::{BACKLOG, BoxFuture, Listener, PeerAddr, Stream};

/// Who may connect.
const MODE: u32 = 0o660;
/// A folder that is made for it.
const FOLDER_MODE: u32 = 0o755;

/// The file goes when this does, unless it is another one by then.
#[derive(Debug)]
struct SocketFile {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of what was put there.
    made: (u64, u64),
}

/// Listens at `path`. A file that nobody listens at any more is replaced, and its folder is made if only that is missing.
pub(super) fn bind(path: &Path) -> io::Result<Box<dyn Listener>> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let problem = "another process listens on this socket";
        return Err(io::Error::new(io::ErrorKind::AddrInUse, problem));
    }
    if let Ok(there) = path.symlink_metadata()
        && !is_socket(&there)
    {
        let problem = "there is a file that is no socket";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
    }
    make_folder(path)?;
    // Under another name until its mode is right: between the two nobody can connect.
    let new = beside(path);
    remove(&new)?;
    let listener = UnixListener::bind(&new)?;
    let file = SocketFile {
        made: identity(&new.symlink_metadata()?),
        listener,
        path: path.to_owned(),
    };
    std::fs::set_permissions(&new, Permissions::from_mode(MODE))?;
    rustix::net::listen(&file.listener, BACKLOG)?;
    std::fs::rename(&new, path)?;
    Ok(Box::new(file))
}

fn make_folder(path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent().filter(|folder| !folder.exists()) else {
        return Ok(());
    };
    std::fs::create_dir(folder)?;
    std::fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_socket(file: &Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&file.file_type())
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let there = self.path.symlink_metadata();
        if there.is_ok_and(|there| identity(&there) == self.made) {
            // Whoever finds it later replaces it.
            _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listener for SocketFile {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, PeerAddr)>> {
        Box::pin(async move {
            let (stream, _) = self.listener.accept().await?;
            let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
            Ok((Stream::Unix(stream), PeerAddr::Unix { uid }))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "a unix socket has no IP address",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let left = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(left);
        assert!(path.exists(), "what a killed process leaves");
        let listener = bind(&path).unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        bind(&path).unwrap();
    }

    #[tokio::test]
    async fn it_is_its_owners_and_tells_who_connects() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run").join("s");
        let mut listener = bind(&path).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), MODE);
        assert_eq!(mode(&dir.path().join("run")), FOLDER_MODE);
        let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let (_, from) = listener.accept().await.unwrap();
        let own = rustix::process::geteuid().as_raw();
        assert!(
            matches!(from, PeerAddr::Unix { uid: Some(uid) } if uid == own),
            "{from:?}"
        );
    }

    #[tokio::test]
    async fn the_file_goes_with_its_listener_but_not_that_of_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = bind(&path).unwrap();
        drop(listener);
        assert!(!path.exists());
        let listener = bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "not a socket").unwrap();
        drop(listener);
        assert!(path.exists());
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
