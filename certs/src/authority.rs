//! Authorities: one signs the nodes of a cluster, another one the hosts whose TLS a forward proxy is to open.
//!
//! They are never the same: what a container runtime believes must not make anybody a node, nor the other way round.

use std::path::Path;

use darter_service::tls::Certificate;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData as _,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::OffsetDateTime;

use crate::files::{Place, read};
use crate::{Error, Written, lifetime};

/// File name of the CA of nodes, without its ending.
pub const CLUSTER: &str = "ca";
/// File name of the CA for interception, without its ending.
pub const INTERCEPTION: &str = "interception-ca";

/// How long a CA of nodes is good, in days, unless somebody says otherwise.
pub const CLUSTER_DAYS: u32 = 365;
/// The same for interception: clients believe it, so it is shorter.
pub const INTERCEPTION_DAYS: u32 = 90;

/// Makes the CA of a cluster in `dir`: `ca.pem` and `ca.key`.
///
/// # Errors
/// It is there already and `replace` is not set, or it cannot be written.
pub fn make(dir: &Path, days: u32, replace: bool, now: OffsetDateTime) -> Result<Written, Error> {
    write(dir, CLUSTER, params("Darter cluster CA", days, now)?, replace)
}

/// Makes a CA in `dir` that can sign the names of `hosts` and of what lies under them, and no addresses:
/// `interception-ca.pem` and `interception-ca.key`.
///
/// # Errors
/// No host, or one that is no DNS name; it is there already and `replace` is not set, or it cannot be written.
pub fn make_for_interception(
    dir: &Path,
    hosts: &[String],
    days: u32,
    replace: bool,
    now: OffsetDateTime,
) -> Result<Written, Error> {
    if hosts.is_empty() {
        return Err(Error::NoHosts);
    }
    let mut params = params("Darter interception CA", days, now)?;
    let permitted = hosts
        .iter()
        .map(|host| match rustls_pki_types::DnsName::try_from(host.as_str()) {
            Ok(name) => Ok(GeneralSubtree::DnsName(name.as_ref().to_owned())),
            Err(_) => Err(Error::Name(host.clone())),
        });
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: permitted.collect::<Result<_, _>>()?,
        // Constraints on one kind of name say nothing about the others (RFC 5280, section 4.2.1.10).
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    });
    write(dir, INTERCEPTION, params, replace)
}

fn params(name: &str, days: u32, now: OffsetDateTime) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    (params.not_before, params.not_after) = lifetime(now, days)?;
    params.distinguished_name = DistinguishedName::new();
    // Two authorities of one name would be mistaken for one another.
    let made = now.unix_timestamp();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{name} {made}"));
    // It signs no other authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn write(dir: &Path, name: &str, params: CertificateParams, replace: bool) -> Result<Written, Error> {
    let place = Place::new(dir, name, replace)?;
    let key = KeyPair::generate()?;
    place.write(&params.self_signed(&key)?.pem(), &key)?;
    Ok(Written {
        cert_file: place.cert_file,
        key_file: place.key_file,
        not_after: params.not_after,
    })
}

/// A CA that was made before.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    not_after: OffsetDateTime,
}

impl Authority {
    /// Reads the CA of nodes in `dir`.
    ///
    /// # Errors
    /// It is not there, cannot be read, its key is not its own, or its time is over at `now`.
    pub fn open(dir: &Path, now: OffsetDateTime) -> Result<Self, Error> {
        let [cert_file, key_file] = ["pem", "key"].map(|ending| dir.join(format!("{CLUSTER}.{ending}")));
        for file in [&cert_file, &key_file] {
            if !file.exists() {
                return Err(Error::NoAuthority {
                    file: file.clone(),
                    dir: dir.to_owned(),
                });
            }
        }
        let wrong = |path: &Path, reason: String| Error::File {
            path: path.to_owned(),
            reason,
        };
        let key = KeyPair::from_pem(&read(&key_file)?).map_err(|_| {
            wrong(
                &key_file,
                "it is no private key of a CA that was made here".into(),
            )
        })?;
        let no_ca = || wrong(&cert_file, "it is no certificate of a CA".into());
        let der = CertificateDer::from_pem_slice(read(&cert_file)?.as_bytes()).map_err(|_| no_ca())?;
        let certificate = Certificate::read(&der).map_err(|_| no_ca())?;
        if !certificate.is_ca {
            return Err(no_ca());
        }
        if certificate.public_key != key.subject_public_key_info() {
            let reason = format!("it is not the key of {}", cert_file.display());
            return Err(wrong(&key_file, reason));
        }
        if certificate.is_over(now.unix_timestamp()) {
            return Err(Error::Expired(cert_file));
        }
        let not_after = OffsetDateTime::from_unix_timestamp(certificate.not_after).map_err(|_| no_ca())?;
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Self { issuer, not_after })
    }

    /// The end of its time.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
}
