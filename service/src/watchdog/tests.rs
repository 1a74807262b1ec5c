//! When a role counts as gone, and what a probe takes for an answer.

#![expect(
    clippy::disallowed_methods,
    reason = "the watchdog lives outside the runtime whose clock could be used"
)]

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

use super::*;
use crate::net::Address;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Plays questions `(asked after, took, answered)` and gives the second at which the role counted as gone.
fn gone_at(patience: u64, questions: &[(u64, u64, bool)]) -> Option<u64> {
    let start = Instant::now();
    let mut health = Health::new(start, seconds(patience));
    let mut previous = start;
    for (after, took, answered) in questions {
        let asked = previous + seconds(*after);
        let now = asked + seconds(*took);
        if health.take(previous, asked, now, *answered) {
            return Some(now.duration_since(start).as_secs());
        }
        previous = now;
    }
    None
}

#[test]
fn a_role_that_refuses_is_gone_when_the_patience_is_over() {
    let refused = [(1, 0, false); 20];
    assert_eq!(gone_at(10, &refused), Some(10));
    let one_answer = [&[(1, 0, true)][..], &refused].concat();
    assert_eq!(gone_at(10, &one_answer), Some(11));
}

#[test]
fn a_role_that_is_silent_is_gone_as_soon() {
    assert_eq!(gone_at(10, &[(1, 3, false); 20]), Some(12));
}

#[test]
fn one_answer_is_enough() {
    let hardly = [(1, 3, false), (1, 3, false), (1, 0, true)].repeat(9);
    assert_eq!(gone_at(10, &hardly), None);
}

#[test]
fn a_pause_of_the_whole_process_is_not_missed_answers() {
    // Stopped for an hour between two questions, or in the middle of one; then one slow moment.
    assert_eq!(gone_at(10, &[(1, 0, true), (3600, 3, false), (1, 0, true)]), None);
    assert_eq!(gone_at(10, &[(1, 0, true), (1, 3600, false), (1, 0, true)]), None);
    // What is still silent afterwards is gone all the same.
    let silent = [&[(3600, 3, false)][..], &[(1, 3, false); 9]].concat();
    assert_eq!(gone_at(10, &silent), Some(3600 + 11));
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn answers(answer: &'static [u8]) -> io::Result<Answer> {
    let (listener, address) = listener();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let count = stream.read(&mut request).unwrap();
        assert!(request[..count].starts_with(b"GET /v2/ HTTP/1.1\r\nHost: "));
        stream.write_all(answer).unwrap();
    });
    let got = Probe::tcp(address, "/v2/").ask(seconds(30));
    server.join().unwrap();
    got
}

#[test]
fn any_http_answer_is_one_and_its_headers_are_read() {
    let busy = answers(b"HTTP/1.1 503 Busy\r\nX-Thing:  here \r\n\r\nX-Other: body").unwrap();
    assert_eq!(busy.status, 503);
    assert_eq!(busy.header("x-thing"), Some("here"));
    assert_eq!(busy.header("x-other"), None);
    assert!(answers(b"SSH-2.0-OpenSSH\r\n\r\n").is_err());
    assert!(answers(b"").is_err());
}

#[test]
fn who_never_answers_is_not_waited_for() {
    let (_silent, address) = listener();
    let error = Probe::tcp(address, "/")
        .ask(Duration::from_millis(50))
        .unwrap_err();
    assert!(
        matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        "{error:?}"
    );
}

#[test]
fn a_wildcard_is_asked_over_loopback_and_a_socket_by_its_path() {
    let any: Address = "0.0.0.0:4001".parse().unwrap();
    let tcp = Probe::tcp("127.0.0.1:4001".parse().unwrap(), "/");
    assert_eq!(Probe::new(&any, "/"), Some(tcp));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    });
    let probe = Probe::new(&Address::Unix(path), "/livez").unwrap();
    assert_eq!(probe.ask(seconds(30)).unwrap().status, 200);
    server.join().unwrap();
}

/// A runtime with one thread serves; then that thread is blocked, as by a deadlock.
#[test]
fn a_blocked_runtime_is_found_out_and_told_from_a_live_one() {
    use http_body_util::Full;
    use tokio_util::sync::CancellationToken;

    use crate::http_server::{Cuts, HttpServer, Limits, Plain};
    use crate::net::{Network as _, TokioNetwork};
    use crate::supervise::Tasks;

    let (told, heard) = std::sync::mpsc::channel();
    let (block, blocked) = std::sync::mpsc::channel::<()>();
    let role = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TokioNetwork.bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
            told.send(listener.local_addr().unwrap().to_string()).unwrap();
            let tasks = Tasks::new();
            let http = HttpServer {
                name: "test",
                limits: Limits::default(),
                tasks: tasks.clone(),
                wrap: Plain,
                cuts: Cuts::default(),
            };
            let handler = |_, _| async { http::Response::new(Full::new(bytes::Bytes::new())) };
            tasks.spawn("server", async move {
                http.serve(listener, handler, CancellationToken::new()).await;
            });
            tokio::task::spawn_blocking(move || blocked.recv())
                .await
                .unwrap()
                .ok();
            // The runtime's only thread.
            let (_never, deadlock) = std::sync::mpsc::channel::<()>();
            let _ = deadlock.recv_timeout(seconds(60));
        });
    });
    let probe = Probe::tcp(heard.recv().unwrap().parse().unwrap(), "/");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let supervisor = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let notifier = Notifier::new(Some(path.as_os_str())).unwrap();
    let (gone, is_gone) = std::sync::mpsc::channel();
    let _watchdog = Watchdog::watch(probe, seconds(3), notifier, move || gone.send(()).unwrap()).unwrap();
    let mut said = [0; 64];
    let count = supervisor.recv(&mut said).unwrap();
    assert_eq!(&said[..count], b"WATCHDOG=1");
    assert!(is_gone.try_recv().is_err());
    block.send(()).unwrap();
    is_gone.recv_timeout(seconds(30)).expect("it was not found out");
    drop(role);
}

#[test]
fn less_than_three_seconds_of_patience_is_refused() {
    for (patience, wrong) in [(Some(2), true), (Some(3), false), (None, false)] {
        let config = WatchdogConfig {
            patience: patience.map(Period::secs),
        };
        let mut problems = Problems::new();
        config.validate(&mut problems);
        assert_eq!(!problems.is_empty(), wrong);
    }
}
