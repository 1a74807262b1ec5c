//! The mirror's client against a registry that misbehaves.

use std::time::Duration;

use darter_service::supervise::Tasks;
use darter_testkit::origin::{CutBy, Fault, Match, Origin, RunningOrigin, When};
use tokio::net::UnixListener;

use super::*;
use crate::blob::Patience;

const BLOB: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

struct Lab {
    origin: Origin,
    digest: Digest,
    mirror: Mirror,
    _running: RunningOrigin,
}

async fn lab() -> Lab {
    let origin = Origin::new();
    let digest = origin.add_blob("team/app", BLOB.to_vec()).parse().unwrap();
    let running = origin.spawn_on_loopback().await.unwrap();
    Lab {
        mirror: mirror(&running.host()),
        origin,
        digest,
        _running: running,
    }
}

fn mirror(address: &str) -> Mirror {
    let patience = Patience {
        connect: Duration::from_secs(5),
        silence: Duration::from_millis(300),
        total: Duration::from_secs(2),
    };
    let client = Arc::new(Client::new(address.parse().unwrap(), patience, Tasks::new()));
    Mirror::new(client, "r.example".parse().unwrap(), "team/app".parse().unwrap())
}

#[tokio::test]
async fn ranges_come_over_one_kept_connection() {
    let lab = lab().await;
    for (start, end) in [(0, 36), (3, 4), (30, 36), (7, 7)] {
        let read = lab
            .mirror
            .read(&lab.digest, ByteRange::new(start, end))
            .await
            .unwrap();
        assert_eq!(read, BLOB[ByteRange::new(start, end).indices()]);
    }
    assert_eq!(lab.origin.connections(), 1);
}

#[tokio::test]
async fn what_passes_is_asked_again() {
    for fault in [
        Fault::status(503),
        Fault::HangUp(CutBy::Rst),
        Fault::Cut {
            at: 2,
            by: CutBy::Fin,
        },
        Fault::Stall { at: 2 },
        Fault::Silence,
        Fault::NoBytes,
        Fault::LongBy(5),
    ] {
        let lab = lab().await;
        lab.origin.inject(Match::any(), When::First(2), fault.clone());
        let read = lab.mirror.read(&lab.digest, ByteRange::new(3, 36)).await;
        assert_eq!(read.unwrap(), BLOB[3..], "{fault:?}");
    }
}

#[tokio::test]
async fn what_stays_wrong_ends_in_bounded_time() {
    for fault in [Fault::Silence, Fault::IgnoreRange, Fault::status(502)] {
        let lab = lab().await;
        lab.origin.inject(Match::any(), When::Always, fault.clone());
        let read = lab.mirror.read(&lab.digest, ByteRange::new(3, 9));
        let ended = tokio::time::timeout(Duration::from_secs(20), read).await;
        assert!(ended.unwrap().unwrap_err().is_passing(), "{fault:?}");
    }
}

#[tokio::test]
async fn a_refusal_is_final_and_told() {
    let lab = lab().await;
    let other = Digest::of(darter_types::Algorithm::Sha256, b"other");
    let error = lab.mirror.read(&other, ByteRange::new(0, 9)).await.unwrap_err();
    assert!(matches!(error, BlobError::Refused { status: 404, .. }), "{error}");
    assert_eq!(lab.origin.requests_total(), 1);
}

#[tokio::test]
async fn nobody_there_is_told_with_the_address() {
    let error = mirror("127.0.0.1:1").manifest(&"latest".parse().unwrap()).await;
    assert!(error.unwrap_err().to_string().contains("127.0.0.1:1"));
}

#[tokio::test]
async fn a_mirror_may_listen_on_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mirror.sock");
    let origin = Origin::new();
    let digest: Digest = origin.add_blob("team/app", BLOB.to_vec()).parse().unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let mirror = mirror(&format!("unix:{}", path.display()));
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        origin.serve_connection(stream).await;
    };
    tokio::select! {
        read = mirror.read(&digest, ByteRange::new(1, 3)) => assert_eq!(read.unwrap(), BLOB[1..3]),
        () = serve => panic!("the connection ended early"),
    }
}
