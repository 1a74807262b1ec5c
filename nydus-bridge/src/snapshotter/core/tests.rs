//! What cannot be asked for at the right moment from outside.

use std::path::PathBuf;

use darter_service::net::Address;

use super::*;
use crate::snapshotter::images::Settings;

fn core(root: &Path) -> Core {
    let (folders, tasks) = (Folders::new(root).unwrap(), Tasks::new());
    let settings = Settings {
        program: "/nonexistent".into(),
        mirror: Address::Unix(PathBuf::from("/nonexistent")),
        cache_size: "1MiB".to_owned(),
    };
    let metrics = Metrics::default();
    let images = Images::new(settings, folders.clone(), tasks.clone(), metrics.clone());
    Core::open(Parts {
        folders,
        images,
        references: References::new("/nonexistent".into()),
        tasks,
        metrics,
    })
    .unwrap()
}

fn wanted(key: &str, parent: &str) -> Wanted {
    Wanted {
        key: key.to_owned(),
        parent: Some(parent.to_owned()),
        kind: Kind::Active,
        labels: Labels::new(),
    }
}

/// A mount that was whole may hang a moment later. Here there is none: who looks at it fails.
#[tokio::test]
async fn the_mount_of_an_image_is_not_looked_at_while_the_catalog_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let core = core(dir.path());
    let made = core.held(|inner, kept| {
        let image = Snapshot {
            id: 7,
            kind: Kind::Committed,
            parent: None,
            labels: Labels::new(),
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
            usage: Usage::default(),
            role: Role::Image { reference: None },
        };
        kept.change(Change {
            puts: vec![("image".to_owned(), image)],
            deletes: Vec::new(),
        })?;
        let owner = inner.folders.make(1, Kind::View, None).map(|()| inner.owner(1));
        let owner = owner.unwrap()?;
        assert!(!inner.folders.image(7).exists());
        let other = inner.begin(kept, &wanted("first", "image"), Some((8, owner)));
        assert!(
            matches!(other, Err(CoreError::Refused(Refusal::State { .. }))),
            "{other:?}"
        );
        inner.begin(kept, &wanted("second", "image"), Some((7, owner)))
    });
    let mounts = made.await.unwrap();
    let [mounting] = mounts.as_slice() else {
        panic!("{mounts:?}")
    };
    assert!(
        mounting.options.last().unwrap().ends_with("images/7"),
        "{mounting:?}"
    );
}
