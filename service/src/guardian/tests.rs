//! Workers that say nothing, end early or hang, and words from others; the workers are shells.

use std::os::unix::process::ExitStatusExt as _;

use rand::SeedableRng as _;

use super::*;
use crate::notify::State;

fn guardian(script: &str, patience: Option<Duration>) -> Guardian {
    Guardian {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
        patience,
        start: START_GRACE,
        outer: Notifier::none(),
        // Tests of one process need sockets of different names.
        rng: StdRng::seed_from_u64(rand::random()),
    }
}

/// Nobody asks anything: signals belong to the whole test process.
async fn run(guardian: Guardian) -> io::Result<ExitStatus> {
    guardian.run_asked(pin!(stream::pending())).await
}

#[tokio::test]
async fn a_worker_that_is_asked_to_stop_is_told_and_waited_for() {
    let asked = pin!(stream::iter([Asked::Stop]).chain(stream::pending()));
    let script = "trap 'exit 7' TERM; while :; do sleep 0.01; done";
    let status = guardian(script, None).run_asked(asked).await.unwrap();
    // The shell may hear of it before it has set its trap.
    assert!(
        status.code() == Some(7) || status.signal() == Some(Signal::TERM.as_raw()),
        "{status}"
    );
}

#[tokio::test]
async fn who_asks_twice_does_not_wait() {
    let asked = pin!(stream::iter([Asked::Stop, Asked::Stop]).chain(stream::pending()));
    let status = guardian("trap '' TERM; sleep 60", None)
        .run_asked(asked)
        .await
        .unwrap();
    assert!(status.signal().is_some(), "{status}");
}

#[tokio::test]
async fn a_worker_that_never_served_is_not_started_again() {
    let status = run(guardian("exit 64", None)).await.unwrap();
    assert_eq!(status.code(), Some(64));
}

#[tokio::test]
async fn a_silent_start_is_not_a_hang_but_an_end_is_told() {
    // It never says that it serves, so the patience has not begun.
    let patience = Some(Duration::from_millis(1));
    let status = run(guardian("sleep 0.2; exit 3", patience)).await.unwrap();
    assert_eq!(status.code(), Some(3));
}

#[tokio::test]
async fn a_worker_that_never_comes_to_serve_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let starts = dir.path().join("starts");
    let script = format!("echo >> {}; exec sleep 60", starts.display());
    let guardian = Guardian {
        start: Duration::from_millis(200),
        ..guardian(&script, Some(Duration::from_secs(60)))
    };
    let second = async {
        while std::fs::read(&starts).map_or(0, |lines| lines.len()) < 2 {
            sleep(Duration::from_millis(10)).await;
        }
        Asked::Stop
    };
    let asked = pin!(stream::once(second).chain(stream::pending()));
    let status = guardian.run_asked(asked).await.unwrap();
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
}

#[tokio::test]
async fn words_count_only_from_the_worker_itself() {
    let words = Words::bind(&format!("darter-test-words-{}", std::process::id())).unwrap();
    let stranger = std::process::Command::new("/bin/sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let (me, other) = (rustix::process::getpid(), Pid::from_child(&stranger));
    let notifier = Notifier::new(Some(words.name().as_ref())).unwrap();
    notifier.tell(State::Alive);
    let heard = tokio::time::timeout(Duration::from_millis(100), words.next(other)).await;
    assert!(
        heard.is_err(),
        "a word of another process was taken for the worker's"
    );
    notifier.tell(State::Ready);
    assert_eq!(words.next(me).await.unwrap(), State::Ready);
    let mut stranger = stranger;
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}
