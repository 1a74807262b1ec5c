//! Certificates for hosts whose TLS ends here, signed by the operator's own authority.
//!
//! Each host's certificate is made when it is asked for first, and lives as long as the authority's own: which clients
//! trust is the authority. All of them share one key, made at the start and kept in memory alone.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use darter_service::secret_file::{self, SecretFileError};
use prometheus_client::metrics::counter::Counter;
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use thiserror::Error;
use x509_parser::prelude::{ASN1Time, FromDer as _, Validity, X509Certificate};

use super::config::InterceptConfig;
use crate::access::Recent;

/// Why nothing can be signed. No part of a key is ever in it.
#[derive(Debug, Error)]
pub enum InterceptError {
    /// The key's file.
    #[error(transparent)]
    Key(#[from] SecretFileError),
    /// A file does not hold what it should.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing can be made of what they hold.
    #[error("certificates cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// Signs for hosts.
pub(super) struct Interceptor {
    issuer: Issuer<'static, KeyPair>,
    authority: CertificateDer<'static>,
    validity: Validity,
    key: KeyPair,
    made: Mutex<Recent<String, Arc<ServerConfig>>>,
}

impl std::fmt::Debug for Interceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interceptor")
    }
}

impl Interceptor {
    /// Reads the authority's files; `None` where nothing is to be intercepted.
    pub(super) fn load(config: &InterceptConfig) -> Result<Option<Self>, InterceptError> {
        let (false, Some(cert_file), Some(key_file)) =
            (config.hosts.is_empty(), &config.ca_cert_file, &config.ca_key_file)
        else {
            return Ok(None);
        };
        let authority = certificate(cert_file)?;
        let (_, parsed) =
            X509Certificate::from_der(&authority).map_err(|error| wrong(cert_file, error.to_string()))?;
        let validity = parsed.validity().clone();
        fit(&parsed).map_err(|reason| wrong(cert_file, reason))?;
        let pem = secret_file::read(key_file)?;
        let key = std::str::from_utf8(&pem)
            .ok()
            .and_then(|pem| KeyPair::from_pem(pem).ok())
            .ok_or_else(|| {
                wrong(
                    key_file,
                    "there is no private key in PEM (PKCS#8) in it".to_owned(),
                )
            })?;
        if key.subject_public_key_info() != parsed.tbs_certificate.subject_pki.raw {
            let reason = format!("it is not the key of {}", cert_file.display());
            return Err(wrong(key_file, reason));
        }
        Ok(Some(Self {
            issuer: Issuer::from_ca_cert_der(&authority, key)?,
            validity,
            key: KeyPair::generate()?,
            made: Mutex::new(Recent::new(config.certificates_max)),
            authority,
        }))
    }

    /// What a host's TLS is ended with here; `new` counts what had to be made for it.
    pub(super) fn server(&self, host: &str, new: &Counter) -> Result<Arc<ServerConfig>, InterceptError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = made.get(&host.to_owned()) {
            return Ok(Arc::clone(server));
        }
        let server = Arc::new(self.make(host)?);
        new.inc();
        made.insert(host.to_owned(), Arc::clone(&server));
        Ok(server)
    }

    fn make(&self, host: &str) -> Result<ServerConfig, InterceptError> {
        // Certificates write IPv6 addresses without brackets.
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params
            .distinguished_name
            .push(DnType::CommonName, "intercepted by darter");
        params.not_before = self.validity.not_before.to_datetime();
        params.not_after = self.validity.not_after.to_datetime();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&self.key, &self.issuer)?;
        let chain = vec![leaf.der().clone(), self.authority.clone()];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
        let mut server = server.map_err(|error| wrong(Path::new(host), error.to_string()))?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(server)
    }
}

fn certificate(path: &Path) -> Result<CertificateDer<'static>, InterceptError> {
    let pem = std::fs::read(path).map_err(|error| wrong(path, error.to_string()))?;
    CertificateDer::from_pem_slice(&pem)
        .map_err(|error| wrong(path, format!("there is no certificate in PEM in it: {error}")))
}

/// Whether clients could trust what this authority signs.
fn fit(authority: &X509Certificate<'_>) -> Result<(), String> {
    if !authority.is_ca() {
        return Err("it is not the certificate of an authority".to_owned());
    }
    let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
    let valid = ASN1Time::from_timestamp(now).is_ok_and(|now| authority.validity().is_valid_at(now));
    if valid {
        Ok(())
    } else {
        Err(format!(
            "it is valid from {} to {} only, or this machine's clock is wrong",
            authority.validity().not_before,
            authority.validity().not_after
        ))
    }
}

fn wrong(path: &Path, reason: String) -> InterceptError {
    InterceptError::File {
        path: path.to_owned(),
        reason,
    }
}
