//! Lives and lines of workers; that mounts survive is tested with the program.

use super::*;
use std::io::{Read as _, Write as _};

use crate::mount::{Agreed, Kept, Over};

#[test]
fn who_dies_at_once_again_and_again_is_not_started_for_ever() {
    let mut luck = Luck::default();
    assert_eq!(luck.after(Some(Duration::from_secs(9))), Some(Duration::ZERO));
    for round in 0..3 {
        let mut pauses = Vec::new();
        while let Some(pause) = luck.after((round == 1).then_some(Duration::from_millis(1))) {
            pauses.push(pause);
        }
        assert_eq!(pauses.len(), 10, "{pauses:?}");
        assert!(pauses.is_sorted() && pauses[0].is_zero() && pauses[9] == PAUSE_MAX);
        assert_eq!(luck.after(Some(LIVED)), Some(Duration::ZERO), "it lived");
    }
}

#[test]
fn what_a_worker_leaves_reaches_the_next_one() {
    let (own, line) = pair().unwrap();
    let line = Line::from_descriptor(line);
    send(&own, FRESH, &[]).unwrap();
    assert!(line.legacy().unwrap().is_none());
    let mut bootstrap = tempfile::tempfile().unwrap();
    bootstrap.write_all(b"metadata").unwrap();
    std::io::Seek::rewind(&mut bootstrap).unwrap();
    let legacy = Legacy {
        kept: Kept {
            connection: tempfile::tempfile().unwrap().into(),
            agreed: Agreed {
                capabilities: u64::MAX,
            },
            mark: Some("/cache/mount-1/darter:image".into()),
            over: Some(Over {
                source: "/cache/mount-1/darter:image".into(),
                written: "/written".into(),
            }),
        },
        bootstrap,
        path: "/mnt".into(),
        name: "image".to_owned(),
        key: "sha256:1".to_owned(),
    };
    line.leave(&legacy).unwrap();
    let mut packet = vec![0; PACKET_BYTES_MAX];
    let (length, descriptors) = receive(&own, &mut packet).unwrap();
    let descriptors: Vec<_> = descriptors.iter().map(OwnedFd::as_fd).collect();
    send(&own, &packet[..length], &descriptors).unwrap();
    let mut found = line.legacy().unwrap().unwrap();
    let mut bytes = Vec::new();
    found.bootstrap.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"metadata");
    assert_eq!(
        (
            found.name.as_str(),
            found.kept.agreed,
            found.path,
            found.kept.mark,
            found.kept.over
        ),
        (
            "image",
            legacy.kept.agreed,
            legacy.path,
            legacy.kept.mark,
            legacy.kept.over
        )
    );
    for nonsense in [
        "",
        "{}",
        "{\"agreed\":1}",
        &packet_without_descriptors(&packet[..length]),
    ] {
        send(&own, nonsense.as_bytes(), &[]).unwrap();
        assert!(line.legacy().is_err(), "{nonsense}");
    }
}

fn packet_without_descriptors(packet: &[u8]) -> String {
    String::from_utf8(packet.to_vec()).unwrap()
}

/// The worker is a shell.
async fn guarded(script: &str) -> ExitStatus {
    let guardian = Guardian {
        program: "/bin/sh".into(),
        name: "sh".into(),
        arguments: vec!["-c".into(), script.into()],
        path: "/nowhere".into(),
    };
    guardian.run().await.unwrap()
}

#[tokio::test]
async fn a_worker_that_never_served_is_not_started_again() {
    assert_eq!(guarded("exit 7").await.code(), Some(7));
    assert!(guarded("exit 0").await.success());
    assert!(!guarded("kill -9 $$").await.success());
}
