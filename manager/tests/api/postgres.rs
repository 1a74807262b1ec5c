//! A Postgres of its own, and everything once more on it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use darter_service::config::Secret;
use tempfile::TempDir;

use crate::home::{Home, Manager};
use crate::{configuration, flows, roles, streams};

/// Where Debian puts the programs of its package `postgresql`, one folder a version.
const DEBIAN: &str = "/usr/lib/postgresql";
/// Postgres does not run as root: user and group `nobody` of Debian.
const NOBODY: u32 = 65534;
/// How long it may take to start on a busy machine.
const STARTED_WITHIN: Duration = Duration::from_secs(60);

struct Server {
    _dir: TempDir,
    socket: PathBuf,
    process: Child,
}

fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir(DEBIAN).into_iter().flatten();
    let found = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin").join(name)));
    let newest = found.filter(|path| path.exists()).max();
    newest.expect("Postgres is not there: install it with `apt-get install postgresql`")
}

fn command(name: &str, dir: &Path) -> Command {
    let mut command = Command::new(program(name));
    command.current_dir(dir).stdin(Stdio::null());
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|found| std::os::unix::fs::MetadataExt::uid(&found) == 0)
}

impl Server {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        if is_root() {
            std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let data = dir.path().join("data");
        let made = command("initdb", dir.path())
            .args(["--username=darter", "--auth=trust", "--no-sync", "--pgdata"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let process = command("postgres", dir.path())
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-k"])
            .arg(dir.path())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self {
            socket: dir.path().to_owned(),
            _dir: dir,
            process,
        };
        let started = tokio::time::timeout(STARTED_WITHIN, async {
            while !server.psql("postgres", "SELECT 1").status.success() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        started.await.expect("Postgres starts");
        server
    }

    fn psql(&self, database: &str, statement: &str) -> std::process::Output {
        command("psql", &self.socket)
            .args([
                "--quiet",
                "--no-psqlrc",
                "-tA",
                "-U",
                "darter",
                "-d",
                database,
                "-c",
                statement,
                "-h",
            ])
            .arg(&self.socket)
            .output()
            .unwrap()
    }

    fn ask(&self, database: &str, statement: &str) -> String {
        let done = self.psql(database, statement);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    /// A new database.
    fn home(&self, name: &str) -> Home {
        self.ask("postgres", &format!("CREATE DATABASE {name}"));
        let socket = self.socket.display();
        Home::Postgres(Secret::new(format!(
            "postgres:///{name}?host={socket}&user=darter"
        )))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // At once, whoever is connected: nothing of it is needed any more.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn everything_holds_on_postgres() {
    let server = Server::start().await;
    flows::the_first_start_makes_an_administrator_once_and_the_second_none(&server.home("flow_0")).await;
    flows::every_route_is_as_it_is_described(&server.home("flow_1")).await;
    flows::tokens_do_no_more_than_they_may_and_end(&server.home("flow_2")).await;
    flows::tokens_end(&server.home("flow_3")).await;
    flows::a_thousand_guesses_are_ten_and_are_written_down(&server.home("flow_4")).await;
    flows::pages_of_others_cannot_use_a_session(&server.home("flow_5")).await;
    flows::somebody_can_always_administer(&server.home("flow_6")).await;
    flows::every_node_has_a_cluster(&server.home("flow_7")).await;
    flows::what_cannot_be_taken_is_said_at_once_and_kept_nowhere(&server.home("flow_8")).await;
    flows::a_new_password_ends_the_sessions(&server.home("flow_9")).await;
    flows::what_a_user_may_have_is_bounded(&server.home("flow_10")).await;
    flows::only_names_of_users_are_written_down(&server.home("flow_11")).await;
    flows::the_audit_is_filtered(&server.home("flow_12")).await;
    flows::what_is_wrong_is_said_of_its_field(&server.home("flow_13")).await;
    configuration::every_version_is_kept_and_nobody_overwrites_another(&server.home("flow_14")).await;
    configuration::join_tokens_are_shown_once_and_go_with_their_cluster(&server.home("flow_15")).await;
    roles::a_node_finds_its_scheduler_and_outlives_the_manager(&server.home("flow_16")).await;
    roles::a_token_opens_its_own_cluster_for_as_long_as_it_is_there(&server.home("flow_17")).await;
    roles::a_silent_scheduler_is_not_handed_out_and_comes_back(&server.home("flow_18")).await;
    streams::a_token_of_one_cluster_takes_nobody_from_another(&server.home("flow_19")).await;
    streams::an_older_stream_takes_the_place_of_a_newer_one_that_ends(&server.home("flow_20")).await;
    streams::a_clock_that_is_set_back_keeps_nobody_alive(&server.home("flow_21")).await;
}

#[tokio::test]
async fn managers_with_one_database_are_one() {
    let server = Server::start().await;
    let home = server.home("shared");
    let (one, other) = tokio::join!(Manager::start(&home), Manager::start(&home));
    let passwords = [&one.password, &other.password];
    let made: Vec<&String> = passwords.into_iter().flatten().collect();
    let [password] = made.as_slice() else {
        panic!("{} administrators were made", made.len());
    };
    let session = one.session("admin", password).await;
    let elsewhere = crate::home::Caller {
        manager: &other,
        headers: session.headers.clone(),
    };
    let made = serde_json::json!({ "name": "berlin" });
    elsewhere.post("/api/v1/clusters", made).await.is(201);
    assert_eq!(
        session
            .get("/api/v1/clusters")
            .await
            .is(200)
            .as_array()
            .unwrap()
            .len(),
        2
    );

    // Each takes the other's right away, at the same moment: one of them stays.
    let (second, _) = session.user("second", "admin").await;
    let users = session.get("/api/v1/users").await.is(200);
    let first = users
        .as_array()
        .unwrap()
        .iter()
        .find(|user| user["name"] == "admin")
        .unwrap();
    let [first, second] = [first["id"].as_str().unwrap(), &second].map(|id| format!("/api/v1/users/{id}"));
    let less = || serde_json::json!({ "role": "viewer", "disabled": false });
    for _ in 0..20 {
        let (a, b) = tokio::join!(session.put(&first, less()), elsewhere.put(&second, less()));
        let left = server.ask("shared", "SELECT count(*) FROM users WHERE role = 'admin'");
        assert_eq!(left, "1", "{} {}: {} {}", a.status, b.status, a.text, b.text);
        server.ask("shared", "UPDATE users SET role = 'admin'");
    }
    one.stop().await;
    other.stop().await;
}

/// A node at one manager hears of a scheduler at another, and of a change that was made at the other.
#[tokio::test]
async fn a_manager_tells_what_another_one_knows() {
    let server = Server::start().await;
    roles::a_manager_tells_what_another_one_knows(&server.home("roles")).await;
}
