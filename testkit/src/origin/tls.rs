//! Certificates for loopback, right ones and wrong ones, from an authority made anew for each origin.

use std::sync::Arc;

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// What certificate an origin shows. Only the first is one to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// For `localhost` and 127.0.0.1, by the origin's own authority.
    Valid,
    /// For the right names, but by nobody but itself.
    SelfSigned,
    /// By the authority, for `elsewhere.invalid`.
    WrongHost,
    /// By the authority, for the right names, until 2001.
    Expired,
}

/// Why no certificate could be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum IdentityError {
    #[error("cannot make a test certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("cannot use the test certificate")]
    Tls(#[from] tokio_rustls::rustls::Error),
}

/// An authority's certificate and a server that shows one of its own.
pub(super) struct Identity {
    pub(super) ca_pem: String,
    pub(super) acceptor: TlsAcceptor,
}

impl Identity {
    pub(super) fn new(mode: TlsMode) -> Result<Self, IdentityError> {
        let (ca, issuer) = authority()?;
        let key = KeyPair::generate()?;
        let leaf = leaf(mode, &key, &issuer)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            ca_pem: ca.pem(),
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }
}

fn authority() -> Result<(Certificate, Issuer<'static, KeyPair>), rcgen::Error> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "darter testkit authority");
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate, Issuer::new(params, key)))
}

fn leaf(
    mode: TlsMode,
    key: &KeyPair,
    issuer: &Issuer<'static, KeyPair>,
) -> Result<Certificate, rcgen::Error> {
    let names = match mode {
        TlsMode::WrongHost => vec!["elsewhere.invalid".to_owned()],
        TlsMode::Valid | TlsMode::SelfSigned | TlsMode::Expired => {
            vec!["localhost".to_owned(), "127.0.0.1".to_owned()]
        }
    };
    let mut params = CertificateParams::new(names)?;
    if mode == TlsMode::Expired {
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    }
    match mode {
        TlsMode::SelfSigned => params.self_signed(key),
        TlsMode::Valid | TlsMode::WrongHost | TlsMode::Expired => params.signed_by(key, issuer),
    }
}
