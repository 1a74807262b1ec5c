//! How registries prove who they are: the system's authorities, plus those that the configuration names.
//!
//! There is no way around the verification, by configuration or by code.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::config::{OriginConfigError, RegistrySettings, Settings};

/// The TLS settings of all registries.
#[derive(Clone, Debug)]
pub(crate) struct TlsConfigs {
    system: Arc<ClientConfig>,
    /// By the key of the configuration's entry.
    private: BTreeMap<String, Arc<ClientConfig>>,
}

impl TlsConfigs {
    /// Reads the system's authorities and every `caFile`.
    pub(crate) fn new(settings: &Settings) -> Result<Self, OriginConfigError> {
        let roots = system_roots();
        let mut private = BTreeMap::new();
        for (key, path) in settings.ca_files() {
            let mut roots = roots.clone();
            add(&mut roots, path).map_err(|reason| OriginConfigError::CaFile {
                path: format!("origin.registries[{key:?}].caFile"),
                reason,
            })?;
            private.insert(key.clone(), client(roots)?);
        }
        Ok(Self {
            system: client(roots)?,
            private,
        })
    }

    /// What holds where no registry is known.
    pub(crate) fn system(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.system)
    }

    /// What holds for one registry.
    pub(crate) fn of(&self, registry: &RegistrySettings) -> Arc<ClientConfig> {
        let private = registry.ca_key.as_ref().and_then(|key| self.private.get(key));
        Arc::clone(private.unwrap_or(&self.system))
    }
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "some of the system's authorities cannot be read");
    }
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::warn!(
            ignored,
            "the system has no certificate authorities; install ca-certificates or name a caFile"
        );
    }
    roots
}

fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let at = |problem: String| format!("{}: {problem}", path.display());
    let pem = std::fs::read(path).map_err(|error| at(error.to_string()))?;
    let mut added = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate =
            certificate.map_err(|error| at(format!("not a PEM file of certificates: {error}")))?;
        roots.add(certificate).map_err(|error| at(error.to_string()))?;
        added += 1;
    }
    if added == 0 {
        Err(at("there is no certificate in it".to_owned()))
    } else {
        Ok(())
    }
}

fn client(roots: RootCertStore) -> Result<Arc<ClientConfig>, OriginConfigError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| OriginConfigError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
