//! The same origin on simulated sockets: what the deterministic simulation relies on.

use turmoil::net::{TcpListener, TcpStream};

use super::*;

/// Asks a simulated origin for its blob, once, and hands back the answer and the simulated time.
fn simulate(fault: Option<Fault>) -> (Result<Response, ClientError>, Duration) {
    let origin = Origin::new();
    let digest = origin.add_blob(REPOSITORY, Content::generated(SEED, LENGTH));
    if let Some(fault) = fault {
        origin.inject(Match::digest(&digest), When::Always, fault);
    }
    let mut sim = turmoil::Builder::new()
        .rng_seed(1)
        .simulation_duration(Duration::from_secs(60))
        .build();
    sim.host("origin", move || {
        let origin = origin.clone();
        async move {
            let listener = TcpListener::bind(("0.0.0.0", 80)).await?;
            loop {
                let (stream, _) = listener.accept().await?;
                let origin = origin.clone();
                tokio::spawn(async move { origin.serve_connection(stream).await });
            }
        }
    });
    let answer = Arc::new(Mutex::new(None));
    let out = Arc::clone(&answer);
    sim.client("client", async move {
        let start = Instant::now();
        let mut connection = RawConnection::new(TcpStream::connect(("origin", 80)).await?);
        connection
            .request("GET", "origin", &format!("/v2/{REPOSITORY}/blobs/{digest}"), &[])
            .await?;
        let got = connection.read_response(false).await;
        *out.lock().unwrap() = Some((got, start.elapsed()));
        Ok(())
    });
    sim.run().unwrap();
    answer.lock().unwrap().take().unwrap()
}

#[test]
fn a_blob_arrives_whole_and_alike_in_every_run() {
    let (got, elapsed) = simulate(None);
    assert_eq!(got.unwrap().body, blob());
    assert_eq!(simulate(None).1, elapsed);
}

#[test]
fn cuts_are_exact_and_silence_is_silent() {
    let (got, _) = simulate(Some(Fault::Cut {
        at: 100_000,
        by: CutBy::Fin,
    }));
    let got = got.unwrap();
    assert_eq!((got.body.len(), got.end), (100_000, End::Fin));
    let (got, elapsed) = simulate(Some(Fault::Silence));
    assert!(matches!(got, Err(ClientError::NoAnswer { end: End::Quiet, .. })));
    assert!(elapsed >= client::PATIENCE);
}
