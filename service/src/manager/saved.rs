//! What a manager told, on disk: written whole or not at all, and read at a start.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use darter_proto::WIRE_VERSION;
use darter_proto::limits::{DOCUMENT_BYTES_MAX, SCHEDULERS_MAX, TEXT_BYTES_MAX};
use darter_proto::manager::Membership;
use serde::{Deserialize, Serialize};

/// Longest file that is read.
const BYTES_MAX: u64 = 8 * (DOCUMENT_BYTES_MAX + SCHEDULERS_MAX * TEXT_BYTES_MAX) as u64;
/// Version of the file's form.
const FORM: u32 = 1;
/// Writing by the group or by others.
const OTHERS_WRITE: u32 = 0o022;
/// Until a manager says another one; nothing is told to nobody.
const ALIVE_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Saved {
    form: u32,
    cluster: String,
    name: String,
    reason: String,
    schedulers: Vec<String>,
    configuration: Option<Version>,
}

#[derive(Serialize, Deserialize)]
struct Version {
    version: u64,
    document: String,
}

/// What was saved, or nothing: a file that cannot be used is as none, and the log says why.
pub fn read(file: &Path) -> Option<Membership> {
    match try_read(file) {
        Ok(saved) => Some(saved),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "what the manager told last cannot be read: starting without it");
            None
        }
    }
}

fn try_read(file: &Path) -> io::Result<Membership> {
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    // Not blocked by a pipe that has this name.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(file)?;
    // Of the file that was opened, not of what has that name a moment later.
    let metadata = opened.metadata()?;
    if !metadata.is_file() {
        return Err(wrong("it is not a regular file".to_owned()));
    }
    // It says whom this instance follows: nobody else may have written it.
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS_WRITE != 0 {
        return Err(wrong(format!(
            "others can change it (mode {mode:04o}); run chmod 600 on it"
        )));
    }
    if metadata.len() > BYTES_MAX {
        return Err(wrong(format!("it is longer than {BYTES_MAX} bytes")));
    }
    let saved: Saved = serde_json::from_reader(io::BufReader::new(opened.take(BYTES_MAX)))?;
    if saved.form != FORM {
        return Err(wrong(format!(
            "its form is {}, this release knows {FORM}",
            saved.form
        )));
    }
    let membership = Membership {
        wire_version: WIRE_VERSION,
        cluster: saved.cluster,
        name: saved.name,
        reason: saved.reason,
        schedulers: saved.schedulers,
        configuration: saved.configuration.map(|kept| (kept.version, kept.document)),
        alive_interval: ALIVE_INTERVAL,
    };
    // By the rules of the network: whoever wrote the file is not known.
    let told = darter_proto::pb::manager::v1::Membership::from(membership);
    told.try_into()
        .map_err(|error: darter_proto::convert::ConvertError| wrong(error.to_string()))
}

/// Saves it. After a crash the file has either what it had or this. Blocks for as long as the disk does.
///
/// # Errors
/// The file system's.
pub fn write(file: &Path, membership: &Membership) -> io::Result<()> {
    let dir = file.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let configuration = membership.configuration.clone();
    let saved = Saved {
        form: FORM,
        cluster: membership.cluster.clone(),
        name: membership.name.clone(),
        reason: membership.reason.clone(),
        schedulers: membership.schedulers.clone(),
        configuration: configuration.map(|(version, document)| Version { version, document }),
    };
    let text = serde_json::to_vec_pretty(&saved)?;
    let new = file.with_extension("json.new");
    let mut options = OpenOptions::new();
    let mut opened = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    opened.write_all(&text)?;
    opened.sync_all()?;
    std::fs::rename(&new, file)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership() -> Membership {
        Membership {
            wire_version: WIRE_VERSION,
            cluster: "1".to_owned(),
            name: "default".to_owned(),
            reason: "why".to_owned(),
            schedulers: vec!["a:8002".to_owned()],
            configuration: Some((7, "{}".to_owned())),
            alive_interval: ALIVE_INTERVAL,
        }
    }

    #[test]
    fn what_is_saved_is_read_and_what_is_broken_is_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("below/membership.json");
        assert_eq!(read(&file), None);
        write(&file, &membership()).unwrap();
        let other = Membership {
            configuration: None,
            ..membership()
        };
        write(&file, &other).unwrap();
        assert_eq!(read(&file), Some(other));
        write(&file, &membership()).unwrap();
        assert_eq!(read(&file), Some(membership()));
        let whole = std::fs::read(&file).unwrap();
        for end in 0..whole.len() {
            std::fs::write(&file, &whole[..end]).unwrap();
            assert_eq!(read(&file), None, "{end}");
        }
        let text = String::from_utf8(whole).unwrap();
        for (from, to) in [("a:8002", "nowhere"), ("\"form\": 1", "\"form\": 2")] {
            std::fs::write(&file, text.replace(from, to)).unwrap();
            assert_eq!(read(&file), None, "{to}");
        }
    }
    #[test]
    fn what_others_could_have_written_is_as_none() {
        use std::fs::{Permissions, set_permissions};
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("membership.json");
        write(&file, &membership()).unwrap();
        for (mode, expected) in [
            (0o644, Some(membership())),
            (0o620, None),
            (0o602, None),
            (0o600, Some(membership())),
        ] {
            set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&file), expected, "{mode:o}");
        }
        assert_eq!(read(dir.path()), None);
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        assert_eq!(read(&pipe), None);
    }
}
