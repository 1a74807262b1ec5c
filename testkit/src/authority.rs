//! An authority for nodes, and what it signs, as files.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

/// Signs nodes. Each one made is another authority.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// Who a node is, and whom it believes.
#[derive(Clone, Debug)]
pub struct NodeFiles {
    /// Its certificate.
    pub cert_file: PathBuf,
    /// The key of it.
    pub key_file: PathBuf,
    /// The authority that signed it.
    pub ca_file: PathBuf,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// It could not be made.
    #[error("cannot make a test certificate")]
    Certificate(#[from] rcgen::Error),
    /// It could not be written.
    #[error("cannot write a test certificate")]
    Write(#[from] std::io::Error),
}

impl Authority {
    /// A new authority, whose files lie in `dir`; one authority a directory.
    ///
    /// # Errors
    /// The directory cannot be written to.
    pub fn new(dir: &Path) -> Result<Self, AuthorityError> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        std::fs::write(dir.join("ca.pem"), params.self_signed(&key)?.pem())?;
        Ok(Self {
            dir: dir.to_owned(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Files for a node of this name, a DNS name or an IP address.
    ///
    /// # Errors
    /// The name cannot stand in a certificate.
    pub fn node(&self, name: &str) -> Result<NodeFiles, AuthorityError> {
        self.sign(name, CertificateParams::new(vec![name.to_owned()])?)
    }

    /// The same, with URIs among its names that say what the node may act as.
    ///
    /// # Errors
    /// The name cannot stand in a certificate.
    pub fn node_as(&self, name: &str, roles: &[&str]) -> Result<NodeFiles, AuthorityError> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        for role in roles {
            params.subject_alt_names.push(SanType::URI((*role).try_into()?));
        }
        self.sign(name, params)
    }

    /// The same, until 2001.
    ///
    /// # Errors
    /// The name cannot stand in a certificate.
    pub fn expired(&self, name: &str) -> Result<NodeFiles, AuthorityError> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        self.sign(&format!("{name}-expired"), params)
    }

    fn sign(&self, file: &str, params: CertificateParams) -> Result<NodeFiles, AuthorityError> {
        let key = KeyPair::generate()?;
        let files = NodeFiles {
            cert_file: self.dir.join(format!("{file}.pem")),
            key_file: self.dir.join(format!("{file}.key")),
            ca_file: self.dir.join("ca.pem"),
        };
        std::fs::write(&files.cert_file, params.signed_by(&key, &self.issuer)?.pem())?;
        std::fs::write(&files.key_file, key.serialize_pem())?;
        std::fs::set_permissions(&files.key_file, Permissions::from_mode(0o600))?;
        Ok(files)
    }
}
