//! Where the socket is: whoever can replace it tells containerd, which is root, what to mount.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::program::Program;

const BRIDGE: &str = env!("CARGO_BIN_EXE_darter-bridge");

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(name: &str) -> String {
    fs::read_to_string(repository().join(name)).unwrap()
}

/// The value of a key in a unit of systemd.
fn key<'t>(unit: &'t str, name: &str) -> Option<&'t str> {
    unit.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

/// The command, its unit, `darter setup containerd` and the handbook name one socket, in a folder that is not the proxy's.
#[test]
fn all_name_one_socket_in_a_folder_of_roots_own() {
    let help = Command::new(BRIDGE)
        .args(["snapshotter", "--help"])
        .output()
        .unwrap();
    // Lines are broken where they are long.
    let help = String::from_utf8(help.stdout).unwrap();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let (_, socket) = help.split_once("--socket").unwrap();
    let (_, socket) = socket.split_once("[default: ").unwrap();
    let (socket, _) = socket.split_once(']').unwrap();
    let folder = Path::new(socket).parent().unwrap();

    let unit = text("deploy/systemd/darter-snapshotter.service");
    let own = key(&unit, "RuntimeDirectory").unwrap();
    assert_eq!(folder, Path::new("/run").join(own));
    assert_eq!(key(&unit, "RuntimeDirectoryMode"), Some("0700"));
    assert_eq!(key(&unit, "User"), None, "root's");
    let proxy = text("deploy/systemd/darter-proxy.service");
    assert_ne!(key(&proxy, "RuntimeDirectory"), Some(own));

    // What `darter setup containerd --snapshotter` writes without a path: a test of its crate compares both.
    for version in ["v1", "v2", "v3"] {
        let example =
            format!("containerd-config/examples/snapshotter-{version}/after/etc/containerd/config.toml");
        let address = format!("address = \"{socket}\"\n");
        assert!(text(&example).contains(&address), "{example}");
    }
    let constant = format!("SNAPSHOTTER_SOCKET: &str = \"{socket}\"");
    assert!(text("containerd-config/src/containerd.rs").contains(&constant));
    let page = text("docs/operate/snapshotter.md");
    assert_eq!(
        page.matches("snapshotter.sock").count(),
        page.matches(socket).count()
    );
    assert!(page.contains(socket));
}

/// One that should refuse: it is ended if it does not.
fn start(socket: &Path) -> Output {
    let root = tempfile::tempdir().unwrap();
    let mut command = Command::new("timeout");
    command
        .args(["20", BRIDGE, "snapshotter", "--socket"])
        .arg(socket);
    command.arg("--root").arg(root.path()).output().unwrap()
}

#[test]
fn a_folder_that_others_can_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (name, mode, owner) in [
        ("group", 0o770, 0),
        ("anybody", 0o1777, 0),
        ("another", 0o755, 1234),
    ] {
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
        chown(&folder, Some(owner), None).unwrap();
        let output = start(&folder.join("s"));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && said.contains("folder of root's own"),
            "{name}: {said}"
        );
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }
    // Whoever has a folder above can put another one in its place.
    let inner = dir.path().join("another/inner");
    fs::create_dir(&inner).unwrap();
    let output = start(&inner.join("s"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("another can be written"),
        "{said}"
    );
}

/// Nobody else may connect or listen; what a killed one left is in nobody's way.
#[tokio::test]
async fn the_socket_is_for_one_and_survives_a_kill() {
    let mut program = Program::start("127.0.0.1:1").await;
    let socket = program.socket();
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o007, 0);
    let output = start(&socket);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("another snapshotter"),
        "{said}"
    );
    assert!(program.list(&[]).await.is_ok(), "the first one answers still");

    program.kill();
    assert!(socket.exists(), "what a killed process leaves");
    assert!(UnixStream::connect(&socket).is_err());
    program.restart_stopped().await;
    assert!(program.list(&[]).await.is_ok());
    assert_eq!(program.stop().await, Some(0));
    assert!(!socket.exists());
}
