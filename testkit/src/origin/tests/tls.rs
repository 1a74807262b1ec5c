//! Right certificates are accepted by a real verifier, each wrong one is refused for its own reason.

use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::*;

async fn connect(running: &RunningOrigin) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
    let ca = CertificateDer::from_pem_slice(running.ca_pem.as_ref().unwrap().as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(ca).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(running.addr).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

#[tokio::test]
async fn valid_certificates_are_accepted_and_faults_work() {
    let bench = Bench::with(Fault::Cut {
        at: 70_000,
        by: CutBy::Fin,
    })
    .await;
    let running = bench.origin.spawn_on_loopback_tls(TlsMode::Valid).await.unwrap();
    assert_eq!(
        running.url(),
        format!("https://localhost:{}", running.addr.port())
    );
    let mut connection = RawConnection::new(connect(&running).await.unwrap());
    connection
        .request("GET", "localhost", &bench.path, &[])
        .await
        .unwrap();
    let got = connection.read_response(false).await.unwrap();
    assert_eq!((got.body.len(), got.end), (70_000, End::Fin));
    assert!(bench.origin.log()[0].secure);

    bench.origin.heal_all();
    bench.origin.inject(
        Match::any(),
        When::Always,
        Fault::Cut {
            at: 70_000,
            by: CutBy::Rst,
        },
    );
    let mut connection = RawConnection::new(connect(&running).await.unwrap());
    connection
        .request("GET", "localhost", &bench.path, &[])
        .await
        .unwrap();
    assert_eq!(connection.read_response(false).await.unwrap().end, End::Reset);
}

#[tokio::test]
async fn wrong_certificates_are_refused() {
    let table = [
        (TlsMode::SelfSigned, "UnknownIssuer"),
        (TlsMode::WrongHost, "NotValidForName"),
        (TlsMode::Expired, "Expired"),
    ];
    for (mode, reason) in table {
        let running = Origin::new().spawn_on_loopback_tls(mode).await.unwrap();
        let error = connect(&running).await.unwrap_err();
        assert!(format!("{error:?}").contains(reason), "{mode:?}: {error:?}");
    }
}
