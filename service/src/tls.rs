//! TLS from files: who this node is, and whom it believes.
//!
//! Every configuration names the ring provider: none depends on what is the default of the process. What is wrong with a
//! file is an error with its path; there is no way from a certificate that cannot be used to a connection without one.
//! [`NodeTls::acceptor`] and [`NodeTls::connector`] make connections of it; [`TlsConfig`] is its section in a file.

pub(crate) mod check;
mod link;
mod section;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use link::{Protocol, TlsConnector, TlsWrap};
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
    /// A server that takes nodes only: TLS 1.3, and a certificate of the CA from the other side.
    ///
    /// # Errors
    /// A file that cannot be used, or a certificate that other nodes would refuse.
    pub fn server(&self) -> Result<ServerConfig, TlsError> {
        let roots = authorities(&self.ca_file)?;
        check::as_server(self, &certificates(&self.cert_file)?, &roots)?;
        let verifier = check::verifier(&self.ca_file, roots)?;
        server(&self.identity(), Some(verifier), &NODE_VERSIONS)
    }

    /// A client that talks to nodes only: TLS 1.3, with its own certificate; no CA of the system is believed.
    ///
    /// # Errors
    /// A file that cannot be used, or a certificate that other nodes would refuse.
    pub fn client(&self) -> Result<ClientConfig, TlsError> {
        let (chain, key) = load(&self.identity())?;
        let roots = authorities(&self.ca_file)?;
        check::as_client(self, &chain, roots.clone())?;
        ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&NODE_VERSIONS)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| unusable(&self.cert_file, &error))
    }

    /// Whether the certificate is for `name`, under which other nodes look for this one.
    ///
    /// # Errors
    /// It is not, or cannot be read.
    pub fn check_name(&self, name: &str) -> Result<(), TlsError> {
        let chain = certificates(&self.cert_file)?;
        if chain.first().is_some_and(|own| check::is_for(own, name)) {
            return Ok(());
        }
        let reason = format!("it is not for this node: its subject alternative names must have {name}");
        Err(unusable(&self.cert_file, &reason))
    }

    fn identity(&self) -> Identity {
        Identity {
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
        }
    }
}

impl Identity {
    /// A server for anyone: TLS 1.2 and 1.3, no certificate asked.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn server(&self) -> Result<ServerConfig, TlsError> {
        server(self, None, &ANY_VERSIONS)
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

fn server(
    identity: &Identity,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ServerConfig, TlsError> {
    let (chain, key) = load(identity)?;
    let clients = clients.unwrap_or_else(WebPkiClientVerifier::no_client_auth);
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(|error| unusable(&identity.cert_file, &error))
}

fn load(identity: &Identity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = certificates(&identity.cert_file)?;
    let pem = read(&identity.key_file)?;
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|error| unusable(&identity.key_file, &format!("no private key in PEM: {error}")))?;
    Ok((chain, key))
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| unusable(path, &error))?;
    }
    Ok(roots)
}

/// All certificates of a file; one at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(path, &format!("no certificate in PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(unusable(path, &"there is no certificate in it"));
    }
    Ok(certificates)
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
