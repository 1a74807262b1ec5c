//! A node's files as they were at one moment: checked as a whole, then turned into what rustls wants.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{
    Certificate, Expected, NODE_VERSIONS, NodeTls, Protocol, TlsError, authorities, certificate_ders, check,
    private_key, provider, unusable,
};

/// Both sides of connections between nodes: TLS 1.3 and a certificate of the CA on each, no CA of the system believed.
#[derive(Clone, Debug)]
pub struct Loaded {
    http1: Sides,
    http2: Sides,
    certificate: Arc<Certificate>,
    der: CertificateDer<'static>,
}

/// Both sides of one protocol.
#[derive(Clone, Debug)]
struct Sides {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// What stands in the files.
struct Parts {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: RootCertStore,
}

impl Loaded {
    pub(super) fn read(files: &NodeTls) -> Result<Self, TlsError> {
        let parts = Parts {
            chain: certificate_ders(&files.cert_file)?,
            key: private_key(&files.key_file)?,
            roots: authorities(&files.ca_file)?,
        };
        check::as_server(files, &parts.chain, &parts.roots)?;
        check::as_client(files, &parts.chain, parts.roots.clone())?;
        let first = parts.chain.first();
        let der = first
            .cloned()
            .ok_or_else(|| unusable(&files.cert_file, &"there is no certificate in it"))?;
        let certificate = Certificate::read(&der).map_err(|error| unusable(&files.cert_file, &error))?;
        Ok(Self {
            http1: parts.sides(files, Protocol::Http1)?,
            http2: parts.sides(files, Protocol::Http2)?,
            certificate: Arc::new(certificate),
            der,
        })
    }

    fn sides(&self, protocol: Protocol) -> &Sides {
        match protocol {
            Protocol::Http1 => &self.http1,
            Protocol::Http2 => &self.http2,
        }
    }

    /// The accepting side.
    pub fn server(&self, protocol: Protocol) -> Arc<ServerConfig> {
        Arc::clone(&self.sides(protocol).server)
    }

    /// The connecting side.
    pub fn client(&self, protocol: Protocol) -> Arc<ClientConfig> {
        Arc::clone(&self.sides(protocol).client)
    }

    /// What the node's own certificate says.
    pub fn certificate(&self) -> &Arc<Certificate> {
        &self.certificate
    }

    /// Whether the certificate is good for what the node is.
    ///
    /// # Errors
    /// It is not for a name under which others look for the node, or not for what it acts as.
    pub(super) fn check(&self, files: &NodeTls, expected: &Expected) -> Result<(), TlsError> {
        let wrong = |reason: String| Err(unusable(&files.cert_file, &reason));
        for name in &expected.names {
            if !check::is_for(&self.der, name) {
                return wrong(format!(
                    "it is not for this node: its subject alternative names must have {name}"
                ));
            }
        }
        for role in &expected.roles {
            if !self.certificate.may_act_as(*role) {
                return wrong(format!(
                    "it is not for a {role}: its subject alternative names must have the URI {}",
                    role.uri()
                ));
            }
        }
        Ok(())
    }
}

impl Parts {
    fn sides(&self, files: &NodeTls, protocol: Protocol) -> Result<Sides, TlsError> {
        let (mut server, mut client) = (self.server(files)?, self.client(files)?);
        server.alpn_protocols = protocol.alpn();
        client.alpn_protocols = protocol.alpn();
        Ok(Sides {
            server: Arc::new(server),
            client: Arc::new(client),
        })
    }

    /// Takes nodes only. Nothing is resumed: each connection proves anew who is at its ends.
    fn server(&self, files: &NodeTls) -> Result<ServerConfig, TlsError> {
        let verifier = check::verifier(&files.ca_file, self.roots.clone())?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&NODE_VERSIONS)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| unusable(&files.cert_file, &error))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Talks to nodes only.
    fn client(&self, files: &NodeTls) -> Result<ClientConfig, TlsError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&NODE_VERSIONS)?
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| unusable(&files.cert_file, &error))?;
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}
