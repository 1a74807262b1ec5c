//! TLS from files: who this node is, and whom it believes.
//!
//! Every configuration names the ring provider: none depends on what is the default of the process. What is wrong with a
//! file is an error with its path; there is no way from a certificate that cannot be used to a connection without one.
//! [`NodeIdentity`] follows a node's files and makes connections of them, [`PeerIdentity`] is who is at the other end;
//! [`TlsConfig`] is their section in a file.

mod certificate;
pub(crate) mod check;
mod identity;
mod link;
mod loaded;
mod peer;
mod revoked;
mod section;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::secret_file::{self, SecretFileError};

pub use certificate::{Certificate, CertificateRole, Fingerprint, NotACertificate, NotAName, Serial};
pub use identity::NodeIdentity;
pub use link::{Protocol, TlsConnector, TlsWrap};
pub use loaded::Loaded;
pub use peer::{PeerIdentity, Secured};
pub use revoked::Revoked;
pub use section::TlsConfig;

/// Between nodes there is no old software to talk to.
static NODE_VERSIONS: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
/// Registries and clients of registries may be older.
static ANY_VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Identity {
    /// The certificate, followed by those that lead to its CA.
    pub cert_file: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC1.
    pub key_file: PathBuf,
}

/// Who a node is among nodes, and which CA vouches for all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NodeTls {
    /// The node's certificate, followed by those that lead to its CA.
    pub cert_file: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC1.
    pub key_file: PathBuf,
    /// The CA that signs nodes, and nothing but nodes: whoever has a certificate of it is one.
    pub ca_file: PathBuf,
    /// Certificates of that CA that are not believed any more, one a line.
    pub revoked_file: Option<PathBuf>,
}

/// What a node's own certificate must be good for, besides being one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Names and addresses under which others look for this node.
    pub names: Vec<String>,
    /// What it acts as.
    pub roles: Vec<CertificateRole>,
}

/// Why TLS cannot be set up: the file, and what is wrong with it.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read, or does not hold what it should.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Some of a node's files are named, and some are not.
    #[error("certFile, keyFile and caFile belong together: name all three, or none of them")]
    Incomplete,
    /// The system has no certificates of CAs, and no file was named.
    #[error(
        "no certificate of a CA was found on this system ({0}); install ca-certificates or name a CA file"
    )]
    NoRoots(String),
    /// The provider cannot do what is asked.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

impl NodeTls {
    /// Reads the files as they are now, and looks at the certificate as other nodes will.
    ///
    /// # Errors
    /// A file that cannot be used, or a certificate that other nodes would refuse.
    pub fn load(&self) -> Result<Loaded, TlsError> {
        Loaded::read(self)
    }
}

impl Identity {
    /// A server for anyone: TLS 1.2 and 1.3, no certificate asked.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn server(&self) -> Result<ServerConfig, TlsError> {
        let (chain, key) = (certificate_ders(&self.cert_file)?, private_key(&self.key_file)?);
        ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&ANY_VERSIONS)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| unusable(&self.cert_file, &error))
    }
}

/// A client for registries: believes the CAs of the system, and those of one more file.
///
/// # Errors
/// The file cannot be used, or there is no CA to believe.
pub fn client(extra_ca: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let mut roots = extra_ca
        .map(authorities)
        .transpose()?
        .unwrap_or_else(RootCertStore::empty);
    let native = rustls_native_certs::load_native_certs();
    // Systems ship certificates that cannot be parsed; those are nobody's loss.
    roots.add_parsable_certificates(native.certs);
    if roots.is_empty() {
        let reasons: Vec<String> = native.errors.iter().map(ToString::to_string).collect();
        return Err(TlsError::NoRoots(reasons.join(", ")));
    }
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&ANY_VERSIONS)?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&secret(path)?)
        .map_err(|error| unusable(path, &format!("no private key in PEM: {error}")))
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificate_ders(path)? {
        roots.add(certificate).map_err(|error| unusable(path, &error))?;
    }
    Ok(roots)
}

/// What the certificates of a file in PEM say; one at least.
///
/// # Errors
/// The file cannot be read, or has something else in it.
pub fn certificates(path: &Path) -> Result<Vec<Certificate>, TlsError> {
    let ders = certificate_ders(path)?;
    let read = |der| Certificate::read(der).map_err(|error| unusable(path, &error));
    ders.iter().map(read).collect()
}

/// All certificates of a file; one at least.
fn certificate_ders(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(path, &format!("no certificate in PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(unusable(path, &"there is no certificate in it"));
    }
    Ok(certificates)
}

/// A key that others than its owner and group can read is not theirs alone, and not used.
fn secret(path: &Path) -> Result<Vec<u8>, TlsError> {
    secret_file::read(path).map_err(|error| match error {
        SecretFileError::Read { source, .. } => unusable(path, &format!("cannot be read: {source}")),
        SecretFileError::NotAFile(_) => unusable(path, &"cannot be read: it is not a regular file"),
        SecretFileError::TooLong(_) => unusable(path, &"is too long for a key"),
        SecretFileError::Open { mode, .. } => {
            let reason = format!("others can read or change the key (mode {mode:04o}); run chmod 600 on it");
            unusable(path, &reason)
        }
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| unusable(path, &format!("cannot be read: {error}")))
}

fn unusable(path: &Path, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests;
