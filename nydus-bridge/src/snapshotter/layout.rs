//! What containerd is to mount for a snapshot. Pure.

use super::catalog::{Kind, Role, Snapshot};
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

/// The directories that a snapshot stands on, topmost first. A Nydus image is one of them, and the last.
pub fn lower<'c>(folders: &Folders, ancestors: impl Iterator<Item = &'c Snapshot>) -> Vec<String> {
    let mut lower = Vec::new();
    for snapshot in ancestors {
        match snapshot.role {
            Role::Files => lower.push(folders.files(snapshot.id).display().to_string()),
            Role::Data => {}
            Role::Image { .. } => {
                lower.push(folders.image(snapshot.id).display().to_string());
                break;
            }
        }
    }
    lower
}

/// The mounts of `snapshot` on `lower`.
pub fn mounts(folders: &Folders, snapshot: &Snapshot, lower: &[String], index: bool) -> Vec<Mounting> {
    let files = folders.files(snapshot.id).display().to_string();
    // The metadata of an image are unpacked by themselves: below them are chunks.
    let alone = matches!(snapshot.role, Role::Image { .. });
    match (snapshot.kind, lower) {
        (Kind::View, []) => vec![bind(files, "ro")],
        (Kind::View, [one]) => vec![bind(one.clone(), "ro")],
        (_, []) => vec![bind(files, "rw")],
        (_, _) if alone => vec![bind(files, "rw")],
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

    use super::super::catalog::{Labels, Usage};
    use super::*;

    fn snapshot(id: u64, kind: Kind, role: Role) -> Snapshot {
        Snapshot {
            id,
            kind,
            parent: None,
            labels: Labels::new(),
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
            usage: Usage::default(),
            role,
        }
    }

    /// The mounts of a snapshot 9 of a kind on others, as one text with the folder left out.
    fn shown(kind: Kind, role: Role, below: &[Snapshot]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::new(dir.path()).unwrap();
        let lower = lower(&folders, below.iter());
        let mounts = mounts(&folders, &snapshot(9, kind, role), &lower, false);
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

    fn files(id: u64) -> Snapshot {
        snapshot(id, Kind::Committed, Role::Files)
    }

    fn data(id: u64) -> Snapshot {
        snapshot(id, Kind::Committed, Role::Data)
    }

    fn nydus(id: u64) -> Snapshot {
        snapshot(id, Kind::Committed, Role::Image { reference: None })
    }

    #[test]
    fn ordinary_layers_are_overlaid() {
        for (kind, below, wanted) in [
            (Kind::Active, vec![], "bind snapshots/9/fs rw,rbind"),
            (Kind::View, vec![], "bind snapshots/9/fs ro,rbind"),
            (Kind::View, vec![files(1)], "bind snapshots/1/fs ro,rbind"),
            (
                Kind::View,
                vec![files(2), files(1)],
                "overlay overlay lowerdir=snapshots/2/fs:snapshots/1/fs",
            ),
            (
                Kind::Active,
                vec![files(1)],
                "overlay overlay workdir=snapshots/9/work,upperdir=snapshots/9/fs,lowerdir=snapshots/1/fs",
            ),
        ] {
            assert_eq!(shown(kind, Role::Files, &below), wanted);
        }
    }

    #[test]
    fn an_image_ends_the_chain_and_chunks_are_in_none() {
        let image = [files(4), nydus(3), data(2), files(1)];
        assert_eq!(
            shown(Kind::View, Role::Files, &image),
            "overlay overlay lowerdir=snapshots/4/fs:images/3"
        );
        assert_eq!(
            shown(Kind::View, Role::Files, &image[1..]),
            "bind images/3 ro,rbind"
        );
        assert_eq!(
            shown(Kind::Active, Role::Files, &[data(2)]),
            "bind snapshots/9/fs rw,rbind"
        );
    }

    #[test]
    fn metadata_are_unpacked_by_themselves() {
        let role = Role::Image { reference: None };
        for below in [vec![data(2)], vec![files(1)], vec![]] {
            assert_eq!(
                shown(Kind::Active, role.clone(), &below),
                "bind snapshots/9/fs rw,rbind"
            );
        }
    }
}
