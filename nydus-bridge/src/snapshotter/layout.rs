//! What containerd is to mount for a snapshot. Pure.

use super::catalog::{Kind, Lower, Snapshot};
use super::folders::Folders;

/// A call of mount(2), as containerd makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounting {
    /// `bind` or `overlay`.
    pub kind: &'static str,
    /// What.
    pub source: String,
    /// How.
    pub options: Vec<String>,
}

/// The mounts of `snapshot` on what it shows beneath its own files.
pub fn mounts(folders: &Folders, snapshot: &Snapshot, below: &[Lower], index: bool) -> Vec<Mounting> {
    let files = folders.files(snapshot.id).display().to_string();
    let lower = below.iter().map(|one| match *one {
        Lower::Files(id) => folders.files(id).display().to_string(),
        Lower::Image(id) => folders.image(id).display().to_string(),
    });
    let lower: Vec<String> = lower.collect();
    match (snapshot.kind, lower.as_slice()) {
        (Kind::View, []) => vec![bind(files, "ro")],
        (Kind::View, [one]) => vec![bind(one.clone(), "ro")],
        (_, []) => vec![bind(files, "rw")],
        (kind, lower) => {
            let mut options = Vec::new();
            if index {
                options.push("index=off".to_owned());
            }
            if kind == Kind::Active {
                options.push(format!("workdir={}", folders.work(snapshot.id).display()));
                options.push(format!("upperdir={files}"));
            }
            options.push(format!("lowerdir={}", lower.join(":")));
            vec![Mounting {
                kind: "overlay",
                source: "overlay".to_owned(),
                options,
            }]
        }
    }
}

fn bind(source: String, access: &str) -> Mounting {
    Mounting {
        kind: "bind",
        source,
        options: vec![access.to_owned(), "rbind".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::catalog::{Labels, Role, Usage};
    use super::*;

    /// The mounts of a snapshot 9 of a kind on others, as one text with the folder left out.
    fn shown(kind: Kind, below: &[Lower]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::new(dir.path()).unwrap();
        let snapshot = Snapshot {
            id: 9,
            kind,
            parent: None,
            labels: Labels::new(),
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
            usage: Usage::default(),
            role: Role::Files,
        };
        let mounts = mounts(&folders, &snapshot, below, false);
        let [mounting] = mounts.as_slice() else {
            panic!("{mounts:?}")
        };
        let text = format!(
            "{} {} {}",
            mounting.kind,
            mounting.source,
            mounting.options.join(",")
        );
        text.replace(&format!("{}/", dir.path().display()), "")
    }

    #[test]
    fn layers_are_overlaid_and_one_alone_is_bound() {
        use Lower::{Files, Image};
        for (kind, below, wanted) in [
            (Kind::Active, vec![], "bind snapshots/9/fs rw,rbind"),
            (Kind::View, vec![], "bind snapshots/9/fs ro,rbind"),
            (Kind::View, vec![Files(1)], "bind snapshots/1/fs ro,rbind"),
            (Kind::View, vec![Image(3)], "bind images/3 ro,rbind"),
            (
                Kind::View,
                vec![Files(2), Files(1)],
                "overlay overlay lowerdir=snapshots/2/fs:snapshots/1/fs",
            ),
            (
                Kind::View,
                vec![Files(4), Image(3)],
                "overlay overlay lowerdir=snapshots/4/fs:images/3",
            ),
            (
                Kind::Active,
                vec![Files(1)],
                "overlay overlay workdir=snapshots/9/work,upperdir=snapshots/9/fs,lowerdir=snapshots/1/fs",
            ),
        ] {
            assert_eq!(shown(kind, &below), wanted);
        }
    }
}
