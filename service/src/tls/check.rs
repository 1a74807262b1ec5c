//! Looks at a node's own certificate as others will: what they would refuse is found at the start, with the name of the file.

use std::path::Path;
use std::sync::Arc;

use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{NodeTls, TlsError, provider, unusable};

/// Whether nodes would take the certificate for a server's: signed by their CA, in its time, allowed to serve.
pub(super) fn as_server(
    tls: &NodeTls,
    chain: &[CertificateDer<'static>],
    roots: &RootCertStore,
) -> Result<(), TlsError> {
    let (own, others) = split(&tls.cert_file, chain)?;
    let parsed = ParsedCertificate::try_from(own).map_err(|error| refused(tls, &error))?;
    let algorithms = provider().signature_verification_algorithms;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, others, UnixTime::now(), algorithms.all)
        .map_err(|error| refused(tls, &error))
}

/// Whether nodes would take the certificate for a client's.
pub(super) fn as_client(
    tls: &NodeTls,
    chain: &[CertificateDer<'static>],
    roots: RootCertStore,
) -> Result<(), TlsError> {
    let (own, others) = split(&tls.cert_file, chain)?;
    verifier(&tls.ca_file, roots)?
        .verify_client_cert(own, others, UnixTime::now())
        .map_err(|error| refused(tls, &error))?;
    Ok(())
}

/// What asks clients for a certificate of the CA.
pub(super) fn verifier(
    ca_file: &Path,
    roots: RootCertStore,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| unusable(ca_file, &error))
}

/// Whether a certificate is for `name`, a DNS name or an IP address.
pub(crate) fn is_for(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let (Ok(parsed), Ok(name)) = (
        ParsedCertificate::try_from(certificate),
        ServerName::try_from(name),
    ) else {
        return false;
    };
    verify_server_name(&parsed, &name).is_ok()
}

fn split<'a>(
    path: &Path,
    chain: &'a [CertificateDer<'static>],
) -> Result<(&'a CertificateDer<'static>, &'a [CertificateDer<'static>]), TlsError> {
    chain
        .split_first()
        .ok_or_else(|| unusable(path, &"there is no certificate in it"))
}

/// rustls speaks of a peer's certificate; here it is our own.
fn refused(tls: &NodeTls, error: &Error) -> TlsError {
    let reason = match error {
        // The latter: by another CA of the same name.
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            format!("it is not signed by the CA in {}", tls.ca_file.display())
        }
        Error::InvalidCertificate(reason) => format!("other nodes would refuse it: {reason}"),
        error => format!("other nodes would refuse it: {error}"),
    };
    unusable(&tls.cert_file, &reason)
}
