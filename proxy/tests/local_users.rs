//! A node's own credentials are for processes of the users that the operator named: real processes, over real sockets.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by its line")]

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use darter_proxy::app::{Node, NodeParts, start};
use darter_proxy::config::Config;
use darter_proxy::sendfile::ZeroCopy;
use darter_service::net::TokioNetwork;
use darter_service::supervise::Tasks;
use darter_store::MemoryStore;
use darter_testkit::client::RawConnection;
use darter_testkit::content::Content;
use darter_testkit::origin::{Access, Origin};
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Says an HTTP request and prints the answer's first line.
const CLIENT: &str = r#"
exec 3<>"/dev/tcp/127.0.0.1/$1"
printf 'GET %s HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n' "$2" >&3
head -n 1 <&3
"#;

/// The status that a process of this user gets.
fn status(user: u32, node: &Node, target: &str) -> String {
    let port = node.mirror_address.rsplit_once(':').unwrap().1;
    let mut command = Command::new("/bin/bash");
    command.args(["-c", CLIENT, "bash", port, target]).env_clear();
    command.current_dir("/").env("PATH", "/usr/bin:/bin");
    if user != own() {
        command.uid(user);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let status = text.split(' ').nth(1).map(str::to_owned);
    status.unwrap_or_else(|| panic!("{text:?} {:?}", output.stderr))
}

/// The status that this process gets over the socket file.
async fn status_by_socket(path: &Path, target: &str) -> String {
    let mut client = RawConnection::new(tokio::net::UnixStream::connect(path).await.unwrap());
    client.request("GET", "mirror", target, &[]).await.unwrap();
    client.read_response(false).await.unwrap().status.to_string()
}

fn own() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_lent_to_the_users_that_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let secret = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    };
    let files = (secret("user", "anna"), secret("password", "canary"));
    let origin = Origin::new();
    let running = origin.spawn_on_loopback().await.unwrap();
    let digest = origin.add_blob("team/app", Content::generated(1, 1000));
    origin.set_access("team/app", Access::Basic);
    origin.add_user("anna", "canary");
    origin.allow("team/app", "anna");
    let target = format!("/v2/team/app/blobs/{digest}?ns=registry.test");
    // Root can be anybody; whoever else runs this is himself.
    let other = own() + 12_345;
    let users = if own() == 0 { vec![0, other] } else { vec![own()] };
    for lent in [json!([own()]), json!([other]), json!(["root", other])] {
        let mut config = Config::default();
        config.mirror.listen = "127.0.0.1:0".parse().unwrap();
        config.peer.listen = "127.0.0.1:0".parse().unwrap();
        let socket = dir.path().join("proxy.sock");
        config.mirror.socket = Some(socket.clone());
        let credentials = json!({
            "share": "node", "users": lent, "usernameFile": files.0, "passwordFile": files.1,
        });
        let registry = json!({ "endpoint": running.url(), "credentials": credentials });
        let registry = serde_json::from_value(registry).unwrap();
        config
            .origin
            .registries
            .insert("registry.test".to_owned(), registry);
        let (stop, tasks) = (CancellationToken::new(), Tasks::new());
        let parts = NodeParts {
            config,
            host: "node".parse().unwrap(),
            network: Arc::new(TokioNetwork),
            zero_copy: ZeroCopy::default(),
            store: Arc::new(MemoryStore::new(u64::MAX)),
            registry: &mut Registry::default(),
            tasks: tasks.clone(),
            stop: stop.clone(),
            seed: 7,
            secret: [7; 32],
        };
        let node = start(parts).await.unwrap();
        let named = |user: u32| {
            let root = user == 0 && lent.to_string().contains("root");
            root || lent.as_array().unwrap().contains(&json!(user))
        };
        // Twice: what one was given, another is not given either.
        for user in users.iter().chain(&users) {
            let expected = if named(*user) { "200" } else { "401" };
            assert_eq!(status(*user, &node, &target), expected, "{user} of {lent}");
        }
        let expected = if named(own()) { "200" } else { "401" };
        assert_eq!(
            status_by_socket(&socket, &target).await,
            expected,
            "socket, {lent}"
        );
        stop.cancel();
        tasks.shut_down(Duration::from_secs(5)).await;
    }
}
