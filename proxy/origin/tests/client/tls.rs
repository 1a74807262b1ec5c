//! Certificates are verified, always.

use std::io::Write as _;

use darter_testkit::origin::{Access, Fault, Match, RedirectTo, TlsMode, When};

use super::*;

struct Secure {
    origin: Origin,
    running: RunningOrigin,
    locator: OriginLocator,
    ca: tempfile::NamedTempFile,
}

async fn secure(mode: TlsMode) -> Secure {
    let origin = Origin::new();
    let digest = origin.add_blob(REPOSITORY, blob());
    let running = origin.spawn_on_loopback_tls(mode).await.unwrap();
    let mut ca = tempfile::NamedTempFile::new().unwrap();
    ca.write_all(running.ca_pem.as_ref().unwrap().as_bytes()).unwrap();
    let name = format!("localhost:{}", running.addr.port());
    Secure {
        locator: locator(&name, ContentKind::Blob, &digest),
        origin,
        running,
        ca,
    }
}

impl Secure {
    fn client(&self, trusted: bool) -> Origins {
        let ca_file = trusted.then(|| self.ca.path().to_owned());
        let entry = RegistryConfig {
            ca_file,
            ..RegistryConfig::default()
        };
        origins(self.locator.registry.as_str(), entry, impatient())
    }

    async fn read(&self, client: &Origins) -> Result<Vec<u8>, OriginError> {
        drain(&mut client.fetch(&self.locator, 0, None, &ANONYMOUS).await?)
            .await
            .1
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_it_is_named() {
    let bench = secure(TlsMode::Valid).await;
    let client = bench.client(true);
    right(&bench.read(&client).await.unwrap());
    right(&bench.read(&client).await.unwrap());
    assert_eq!(bench.origin.connections(), 1, "and the connection is used again");
    assert!(bench.origin.log().iter().all(|record| record.secure));
}

#[tokio::test]
async fn wrong_certificates_are_refused_and_nothing_is_sent() {
    for (mode, trusted, part) in [
        (TlsMode::Valid, false, "UnknownIssuer"),
        (TlsMode::SelfSigned, true, "UnknownIssuer"),
        (TlsMode::WrongHost, true, "not valid for"),
        (TlsMode::Expired, true, "expired"),
    ] {
        let bench = secure(mode).await;
        let error = bench.read(&bench.client(trusted)).await.unwrap_err();
        let OriginError::Unreachable { reason, .. } = &error else {
            panic!("{error:?}")
        };
        assert!(
            reason.contains("its certificate is refused") && reason.contains(part),
            "{mode:?}: {reason}"
        );
        assert_eq!(
            (bench.origin.requests_total(), bench.origin.connections()),
            (0, 0)
        );
    }
}

#[tokio::test]
async fn a_server_without_tls_is_not_spoken_to_in_plain() {
    let bench = Bench::with(RegistryConfig::default(), impatient()).await;
    let error = bench.fails().await;
    assert!(matches!(error, OriginError::Unreachable { .. }), "{error:?}");
    assert_eq!(bench.origin.requests_total(), 0);
}

#[tokio::test]
async fn nothing_secure_leads_to_something_insecure() {
    let bench = secure(TlsMode::Valid).await;
    let plain = Origin::new();
    let running = plain.spawn_on_loopback().await.unwrap();
    let id = bench.origin.inject(
        Match::any(),
        When::Always,
        Fault::Redirect(RedirectTo::Host(running.url())),
    );
    is_unusable(
        &bench.read(&bench.client(true)).await.unwrap_err(),
        "from https to http",
    );
    assert!(bench.origin.heal(id));
    bench
        .origin
        .set_access(REPOSITORY, Access::Bearer { public: true });
    bench.origin.set_realm(&format!("{}/token", running.url()));
    is_unusable(&bench.read(&bench.client(true)).await.unwrap_err(), "not https");
    assert_eq!(plain.requests_total(), 0);
    let own = format!("{}/token", bench.running.url());
    bench.origin.set_realm(&own);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    right(&bench.read(&bench.client(true)).await.unwrap());
}

#[test]
fn a_file_without_certificates_is_a_problem_at_once() {
    let mut empty = tempfile::NamedTempFile::new().unwrap();
    empty.write_all(b"no certificate").unwrap();
    for path in [empty.path(), std::path::Path::new("/no/such/file.pem")] {
        let entry = RegistryConfig {
            ca_file: Some(path.to_owned()),
            ..RegistryConfig::default()
        };
        let config = RegistriesConfig {
            registries: [("a.test".to_owned(), entry)].into(),
            ..RegistriesConfig::default()
        };
        let error = Origins::new(&config, Arc::new(TokioNetwork), 1)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("origin.registries[\"a.test\"].caFile: "),
            "{error}"
        );
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}
