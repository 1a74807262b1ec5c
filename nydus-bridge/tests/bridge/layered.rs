//! Images of several layers that are converted: what is mounted is what the image specification makes of them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use darter_nydus_bridge::convert::{ConvertError, Options};
use darter_nydus_bridge::image::RafsVersion;
use tar::{EntryType, Header};

use crate::convert::{Lab, gzip};
use crate::snapshot;

const MOMENT: u64 = 1_600_000_000;

#[derive(Clone, Copy)]
enum What {
    Dir(u32),
    File(&'static str),
    Symlink(&'static str),
    /// A hard link to another name of the layer.
    Same(&'static str),
    /// A record that concerns the whole archive.
    Global,
}

use What::{Dir, File, Global, Same, Symlink};

type Layer = [(&'static str, What)];

const BASE: &Layer = &[
    ("./", Dir(0o755)),
    (".wh.nothing", File("")),
    ("again", Dir(0o711)),
    ("again/old", File("old")),
    ("etc", Dir(0o750)),
    ("etc/a", File("a")),
    ("etc/gone", File("gone")),
    ("ghost", Dir(0o755)),
    ("ghost/in", File("in")),
    ("links", Dir(0o755)),
    ("links/one", File("one")),
    ("links/three", Same("links/one")),
    ("links/two", Same("links/one")),
    ("opaque", Dir(0o700)),
    ("opaque/old", File("old")),
    ("opaque/sub", Dir(0o755)),
    ("opaque/sub/old", File("old")),
    ("swap", Dir(0o755)),
    ("swap/dir", Dir(0o755)),
    ("swap/dir/in", File("in")),
    ("swap/file", File("file")),
    ("swap/link", Symlink("dir")),
    ("usr", Dir(0o751)),
    ("usr/x", File("x")),
];

/// Lists hardly any folder, and those that sort first come last.
const MIDDLE: &Layer = &[
    ("pax_global_header", Global),
    ("usr/y", File("y")),
    ("swap/file", Dir(0o700)),
    ("swap/file/now", File("now")),
    ("swap/dir", File("dir")),
    ("swap/link/x", File("x")),
    ("opaque/new", File("new")),
    ("opaque/.wh..wh..opq", File("")),
    ("links/one", File("another one")),
    ("links/.wh.three", File("")),
    ("ghost", File("ghost")),
    ("etc/b", File("b")),
    ("etc/.wh.gone", File("")),
    ("deep/er/and/deeper", File("deep")),
    (".wh.again", File("")),
    ("again", Dir(0o700)),
    ("again/new", File("new")),
    ("again/newer", File("newer")),
];

const TOP: &Layer = &[
    ("ghost", Dir(0o755)),
    ("ghost/new", File("new")),
    ("links/four", File("four")),
    ("links/five", Same("links/four")),
    ("etc/b", File("b again")),
    ("etc/.wh.b", File("")),
    ("again/new", File("newest")),
    (".wh.again", File("")),
    ("deep/er/.wh.and", File("")),
    ("usr/sub/.wh..wh..opq", File("")),
];

/// The builder can read this one as it is, though it does not list `etc`.
const IN_ORDER: &Layer = &[("etc/b", File("b")), ("etc/.wh.gone", File(""))];

fn archive(layer: &Layer) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, what) in layer {
        let mut header = Header::new_gnu();
        header.set_mtime(MOMENT);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mode(0o644);
        header.set_size(0);
        let content: &[u8] = match what {
            File(content) => content.as_bytes(),
            Global => b"18 comment=a note\n",
            _ => b"",
        };
        header.set_size(content.len() as u64);
        match what {
            Dir(mode) => {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(*mode);
            }
            Global => header.set_entry_type(EntryType::XGlobalHeader),
            Symlink(target) => {
                header.set_entry_type(EntryType::Symlink);
                header.set_mode(0o777);
                archive.append_link(&mut header, path, target).unwrap();
                continue;
            }
            Same(target) => {
                header.set_entry_type(EntryType::Link);
                archive.append_link(&mut header, path, target).unwrap();
                continue;
            }
            File(_) => {}
        }
        archive.append_data(&mut header, path, content).unwrap();
    }
    archive.into_inner().unwrap()
}

/// Removes whatever has a name.
fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

fn is_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

/// A folder at a path, and above it; those that are there stay what they are.
fn folder(root: &Path, path: &Path) {
    let mut above: Vec<_> = path
        .ancestors()
        .take_while(|above| above.starts_with(root))
        .collect();
    above.reverse();
    for path in above {
        if !is_dir(path) {
            remove(path);
            fs::create_dir(path).unwrap();
            fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        }
    }
}

/// Changes a tree as the image specification says: whiteouts hide what lower layers have; what a layer has replaces what
/// was there, but folders are kept.
fn apply(root: &Path, layer: &Layer) {
    folder(root, root);
    let name = |path: &Path| path.file_name().map(|name| name.to_str().unwrap().to_owned());
    for (path, _) in layer {
        let path = root.join(path);
        let Some(hidden) = name(&path).and_then(|name| name.strip_prefix(".wh.").map(str::to_owned)) else {
            continue;
        };
        let above = path.parent().unwrap();
        if hidden != ".wh..opq" {
            remove(&above.join(hidden));
        } else if is_dir(above) {
            let inside = fs::read_dir(above).unwrap();
            inside.for_each(|entry| remove(&entry.unwrap().path()));
        }
    }
    for (path, what) in layer {
        let path = root.join(path);
        if let Global = what {
            continue;
        }
        folder(root, path.parent().filter(|_| path != root).unwrap_or(root));
        if name(&path).is_some_and(|name| name.starts_with(".wh.")) {
            continue;
        }
        if !(is_dir(&path) && matches!(what, Dir(_))) {
            remove(&path);
        }
        match what {
            Dir(mode) => {
                folder(root, &path);
                fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).unwrap();
            }
            File(content) => {
                fs::write(&path, content).unwrap();
                fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
                let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(MOMENT);
                fs::File::open(&path).unwrap().set_modified(moment).unwrap();
            }
            Symlink(target) => symlink(target, &path).unwrap(),
            Same(target) => fs::hard_link(root.join(target), &path).unwrap(),
            Global => {}
        }
    }
}

/// A registry with the layers as an image, and what the image is.
async fn lab(layers: &[&Layer]) -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let root: PathBuf = dir.path().join("expected");
    layers.iter().for_each(|layer| apply(&root, layer));
    let packed: Vec<_> = layers.iter().map(|layer| gzip(&archive(layer))).collect();
    Lab::with(dir, root, &packed).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_are_laid_over_each_other_as_the_specification_says() {
    let lab = lab(&[BASE, MIDDLE, TOP]).await;
    for version in [RafsVersion::V6, RafsVersion::V5] {
        let options = Options {
            version,
            ..lab.options()
        };
        lab.convert(":nydus", &options).await.unwrap();
        let found = lab.mounted(":nydus").await;
        let mut expected = snapshot::of(&lab.expected);
        expected
            .values_mut()
            .for_each(snapshot::Seen::keep_times_of_files);
        snapshot::assert_same(&found, &expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_is_referred_to_only_if_it_lists_its_folders_in_time() {
    let refer = |lab: &Lab| Options {
        refer: true,
        ..lab.options()
    };
    let fine = lab(&[BASE, IN_ORDER]).await;
    fine.convert(":nydus", &refer(&fine)).await.unwrap();
    let found = fine.mounted(":nydus").await;
    let mut expected = snapshot::of(&fine.expected);
    expected
        .values_mut()
        .for_each(snapshot::Seen::keep_times_of_files);
    snapshot::assert_same(&found, &expected);

    let odd = lab(&[BASE, MIDDLE]).await;
    let error = odd.convert(":nydus", &refer(&odd)).await.unwrap_err().to_string();
    assert!(error.contains("cannot be referred to"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hard_link_into_another_layer_is_told() {
    // Nor does containerd unpack it onto overlayfs: there is nothing to link to.
    let across: &Layer = &[("links/six", Same("links/one"))];
    let packed = [BASE, across].map(|layer| gzip(&archive(layer)));
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    let lab = Lab::with(dir, root, &packed).await;
    let error = lab.convert(":nydus", &lab.options()).await.unwrap_err();
    assert!(matches!(error, ConvertError::Layer { .. }), "{error}");
    assert!(error.to_string().contains("links/one"), "{error}");
}
