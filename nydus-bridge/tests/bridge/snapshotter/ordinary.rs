//! Ordinary images: what containerd's snapshotters have in common.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::Duration;

use darter_nydus_bridge::snapshotter::proto::services::snapshots::v1 as pb;
use tonic::Code;

use super::program::{Mounted, Program};

async fn program() -> Program {
    Program::start("127.0.0.1:1").await
}

/// A layer whose files a function makes on top of a parent.
async fn layer(program: &Program, name: &str, parent: &str, make: impl FnOnce(&std::path::Path)) {
    let key = format!("{name}-unpacking");
    let mounted = Mounted::new(&program.prepare(&key, parent, &[]).await.unwrap());
    make(mounted.path());
    drop(mounted);
    program.commit(name, &key, &[]).await.unwrap();
}

/// Files that are added, changed, removed and replaced layer by layer show so in a view and in a container.
#[tokio::test]
async fn layers_add_up() {
    let program = program().await;
    layer(&program, "one", "", |root| {
        fs::create_dir_all(root.join("dir/below")).unwrap();
        fs::write(root.join("dir/below/deep"), "1").unwrap();
        for name in ["kept", "changed", "removed"] {
            fs::write(root.join(name), "1").unwrap();
        }
    })
    .await;
    layer(&program, "two", "one", |root| {
        fs::write(root.join("changed"), "22").unwrap();
        fs::remove_file(root.join("removed")).unwrap();
        // An opaque directory: nothing of the one below shows.
        fs::remove_dir_all(root.join("dir")).unwrap();
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("dir/new"), "2").unwrap();
    })
    .await;
    layer(&program, "three", "two", |root| {
        fs::set_permissions(root.join("kept"), fs::Permissions::from_mode(0o4711)).unwrap();
    })
    .await;
    let mut container = None;
    for mounts in [
        program.view("view", "three").await.unwrap(),
        program.prepare("container", "three", &[]).await.unwrap(),
    ] {
        let shown = Mounted::new(&mounts);
        let read = |name: &str| fs::read_to_string(shown.path().join(name)).ok();
        assert_eq!(read("kept").as_deref(), Some("1"));
        assert_eq!(read("changed").as_deref(), Some("22"));
        assert_eq!(read("dir/new").as_deref(), Some("2"));
        assert_eq!((read("removed"), read("dir/below/deep")), (None, None));
        let mode = fs::metadata(shown.path().join("kept")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o4711);
        container = Some(shown);
    }
    let container = container.unwrap();
    fs::write(container.path().join("own"), "own").unwrap();
    let view = Mounted::new(&program.mounts("view").await.unwrap());
    assert!(fs::write(view.path().join("own"), "").is_err());
    assert!(!view.path().join("own").exists());
    assert_eq!(
        program.mounts("container").await.unwrap(),
        program.mounts("container").await.unwrap()
    );
    drop((container, view));
    for name in ["container", "view", "three", "two", "one"] {
        program.remove(name).await.unwrap();
    }
    assert_eq!(fs::read_dir(program.root().join("snapshots")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_refusal_has_the_code_that_containerd_acts_on() {
    let program = program().await;
    layer(&program, "base", "", |_| {}).await;
    program.prepare("active", "base", &[]).await.unwrap();
    program.view("view", "base").await.unwrap();
    let code = |done: Result<(), tonic::Status>| done.unwrap_err().code();
    let prepared = async |key, parent| program.prepare(key, parent, &[]).await.map(drop);
    assert_eq!(code(prepared("active", "").await), Code::AlreadyExists);
    assert_eq!(code(prepared("base", "").await), Code::AlreadyExists);
    assert_eq!(code(prepared("x", "missing").await), Code::NotFound);
    assert_eq!(code(prepared("x", "active").await), Code::InvalidArgument);
    assert_eq!(code(prepared("", "base").await), Code::InvalidArgument);
    assert_eq!(
        code(program.view("x", "view").await.map(drop)),
        Code::InvalidArgument
    );
    assert_eq!(
        code(program.commit("new", "view", &[]).await),
        Code::FailedPrecondition
    );
    assert_eq!(
        code(program.commit("new", "base", &[]).await),
        Code::FailedPrecondition
    );
    assert_eq!(
        code(program.commit("base", "active", &[]).await),
        Code::AlreadyExists
    );
    assert_eq!(code(program.commit("new", "missing", &[]).await), Code::NotFound);
    assert_eq!(code(program.remove("base").await), Code::FailedPrecondition);
    assert_eq!(
        code(program.mounts("base").await.map(drop)),
        Code::FailedPrecondition
    );
    for missing in [
        program.mounts("missing").await.map(drop),
        program.stat("missing").await.map(drop),
        program.usage("missing").await.map(drop),
        program.remove("missing").await,
    ] {
        assert_eq!(code(missing), Code::NotFound);
    }
    assert_eq!(
        code(program.list(&["name~=x"]).await.map(drop)),
        Code::InvalidArgument
    );
    assert_eq!(program.list(&[]).await.unwrap(), ["active", "base", "view"]);
}

#[tokio::test]
async fn what_is_told_of_a_snapshot_is_true() {
    let program = program().await;
    let unpacking = Mounted::new(&program.prepare("key", "", &[("a", "1")]).await.unwrap());
    fs::write(unpacking.path().join("file"), vec![7; 1 << 20]).unwrap();
    let usage = program.usage("key").await.unwrap();
    assert!(usage.size >= 1 << 20 && usage.inodes == 2, "{usage:?}");
    drop(unpacking);
    let before = program.stat("key").await.unwrap();
    assert_eq!(
        (before.kind(), before.labels.get("a").map(String::as_str)),
        (pb::Kind::Active, Some("1"))
    );
    program.commit("base", "key", &[("b", "2")]).await.unwrap();
    let base = program.stat("base").await.unwrap();
    assert_eq!(
        (base.kind(), base.parent.as_str(), base.labels.len()),
        (pb::Kind::Committed, "", 1)
    );
    assert!(base.created_at.unwrap().seconds >= before.created_at.unwrap().seconds);
    assert_eq!(program.usage("base").await.unwrap(), usage);

    program.view("view", "base").await.unwrap();
    let view = program.stat("view").await.unwrap();
    assert_eq!((view.kind(), view.parent.as_str()), (pb::Kind::View, "base"));
    let changed = pb::Info {
        name: "base".into(),
        labels: [("c".to_owned(), "3".to_owned())].into(),
        ..Default::default()
    };
    let updated = program.update(changed.clone(), &["labels.c"]).await.unwrap();
    assert_eq!(updated.labels.len(), 2);
    assert_eq!(updated.created_at, base.created_at);
    let updated = program.update(changed.clone(), &["labels"]).await.unwrap();
    assert_eq!(updated.labels, changed.labels);
    let refused = program.update(changed, &["parent"]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(
        program.list(&["labels.c==3,kind==committed"]).await.unwrap(),
        ["base"]
    );
    assert_eq!(
        program.list(&["parent==base", "name==base"]).await.unwrap(),
        ["base", "view"]
    );
}

/// Whatever was answered is there after a kill, and no directory is used a second time.
#[tokio::test]
async fn a_kill_forgets_nothing() {
    let mut program = program().await;
    let mut sources = BTreeSet::new();
    let mut parent = String::new();
    for round in 0..5 {
        let key = format!("key-{round}");
        let mounts = program.prepare(&key, &parent, &[]).await.unwrap();
        let mounted = Mounted::new(&mounts);
        fs::write(mounted.path().join(format!("file-{round}")), "").unwrap();
        drop(mounted);
        program.restart().await;
        assert_eq!(program.mounts(&key).await.unwrap(), mounts);
        let name = format!("layer-{round}");
        program.commit(&name, &key, &[]).await.unwrap();
        let gone = program.prepare("gone", &name, &[]).await.unwrap();
        let upper = gone[0]
            .options
            .iter()
            .find(|option| option.starts_with("upperdir="))
            .unwrap();
        assert!(sources.insert(upper.clone()), "{upper} was used before");
        program.remove("gone").await.unwrap();
        program.restart().await;
        parent = name;
    }
    let shown = Mounted::new(&program.view("view", &parent).await.unwrap());
    assert_eq!(fs::read_dir(shown.path()).unwrap().count(), 5);
}

/// Killed in the middle of whatever it does: what was answered holds, what was not holds whole or not at all.
#[tokio::test]
async fn a_kill_at_any_moment_leaves_no_half() {
    let mut program = program().await;
    layer(&program, "base", "", |_| {}).await;
    let (mut there, mut gone) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..10_u64 {
        let work = async {
            for number in 0.. {
                let key = format!("key-{round}-{number}");
                program.prepare(&key, "base", &[]).await.unwrap();
                there.insert(key);
                if number % 3 == 2
                    && let Some(key) = there.pop_first()
                {
                    program.remove(&key).await.unwrap();
                    gone.insert(key);
                }
            }
        };
        let moment = tokio::time::sleep(Duration::from_micros(7_000 + 3_777 * round));
        tokio::select! {
            () = work => {}
            () = moment => {}
        }
        program.restart().await;
        let found: BTreeSet<String> = program
            .list(&["kind==active"])
            .await
            .unwrap()
            .into_iter()
            .collect();
        assert!(there.is_subset(&found), "{:?}", there.difference(&found));
        assert!(gone.is_disjoint(&found));
        let folders = fs::read_dir(program.root().join("snapshots")).unwrap().count();
        assert_eq!(folders, found.len() + 1);
        for key in &found {
            let mounts = program.mounts(key).await.unwrap();
            let upper = mounts[0]
                .options
                .iter()
                .find_map(|option| option.strip_prefix("upperdir="));
            assert!(std::path::Path::new(upper.unwrap()).is_dir(), "{key}");
        }
    }
    assert!(!there.is_empty());
}

/// A directory that belongs to nothing is removed at a start and by a cleanup, others are not.
#[tokio::test]
async fn leftovers_go() {
    let mut program = program().await;
    program.prepare("kept", "", &[]).await.unwrap();
    // The second is what is left of one that was being made.
    let left = ["77", "new"].map(|name| program.root().join("snapshots").join(name));
    let make = || {
        left.iter()
            .for_each(|left| fs::create_dir_all(left.join("fs")).unwrap())
    };
    make();
    program.cleanup().await;
    assert!(!left.iter().any(|left| left.exists()));
    make();
    program.restart().await;
    assert_eq!(fs::read_dir(program.root().join("snapshots")).unwrap().count(), 1);
    assert_eq!(program.list(&[]).await.unwrap(), ["kept"]);
    assert_eq!(program.stop().await, Some(0));
}

/// Many at once, of which each succeeds once.
#[tokio::test]
async fn who_comes_first_gets_the_name() {
    let program = program().await;
    layer(&program, "base", "", |_| {}).await;
    let asked = (0..32).map(|number| {
        let key = format!("key-{}", number % 8);
        let program = &program;
        async move { program.prepare(&key, "base", &[]).await.is_ok() }
    });
    let done = futures_util::future::join_all(asked).await;
    assert_eq!(done.into_iter().filter(|done| *done).count(), 8);
    assert_eq!(program.list(&["kind==active"]).await.unwrap().len(), 8);
}
