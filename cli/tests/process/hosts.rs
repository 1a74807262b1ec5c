//! `hosts.toml` follows the proxy: there while it serves, gone when it stops, left when it is killed or succeeded.

use std::net::TcpListener;
use std::path::PathBuf;

use rustix::process::{Signal, kill_process};

use crate::role::Role;

/// A node's file system with a containerd that reads `hosts.toml`.
struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn hosts(&self) -> PathBuf {
        self.dir
            .path()
            .join("root/etc/containerd/certs.d/_default/hosts.toml")
    }

    fn proxy(&self, more: &[&str]) -> Role {
        let place =
            |key: &str, name: &str| format!("containerd.{key}={}", self.dir.path().join(name).display());
        std::fs::create_dir_all(self.dir.path().join("root")).unwrap();
        let (root, state) = (place("root", "root"), place("stateDir", "state"));
        let own = [
            "--set",
            "containerd.manageHosts=true",
            "--set",
            &root,
            "--set",
            &state,
        ];
        Role::proxy(&[&own, more].concat())
    }
}

#[test]
fn it_is_there_while_the_proxy_serves() {
    let node = Node::new();
    let mut proxy = node.proxy(&[]);
    let mirror = proxy.mirror();
    proxy.logged("containerd asks this proxy");
    let text = std::fs::read_to_string(node.hosts()).unwrap();
    assert!(text.contains(&format!("[host.\"http://{mirror}\"]")), "{text}");
    kill_process(proxy.pid(), Signal::TERM).unwrap();
    assert_eq!(proxy.end().code(), Some(0));
    assert!(!node.hosts().exists());
}

#[test]
fn a_successor_finds_it_and_one_that_cannot_start_takes_it_away() {
    let node = Node::new();
    let mut proxy = node.proxy(&[]);
    proxy.logged("containerd asks this proxy");
    kill_process(proxy.pid(), Signal::USR2).unwrap();
    assert_eq!(proxy.end().code(), Some(0));
    assert!(
        node.hosts().exists(),
        "the successor would have to wait for its first pulls"
    );

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("mirror.listen={}", taken.local_addr().unwrap());
    assert_eq!(node.proxy(&["--set", &listen]).end().code(), Some(1));
    assert!(!node.hosts().exists(), "containerd asks whoever has the port");
}

#[test]
fn a_proxy_that_is_killed_leaves_it_and_the_next_one_cleans_up() {
    let node = Node::new();
    let mut proxy = node.proxy(&[]);
    proxy.logged("containerd asks this proxy");
    kill_process(proxy.pid(), Signal::KILL).unwrap();
    proxy.end();
    assert!(node.hosts().exists());

    let mut next = node.proxy(&[]);
    next.logged("containerd asks this proxy");
    kill_process(next.pid(), Signal::TERM).unwrap();
    assert_eq!(next.end().code(), Some(0));
    assert!(!node.hosts().exists(), "entries of both lives are gone");
}
