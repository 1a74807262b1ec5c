//! Certificates of nodes and schedulers: both a server's and a client's, for names, addresses and roles.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use darter_service::tls::CertificateRole;
use darter_types::HostId;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use crate::authority::Authority;
use crate::files::Place;
use crate::{Error, Written, lifetime};

/// How long a node's certificate is good, in days, unless somebody says otherwise.
pub const NODE_DAYS: u32 = 30;

/// Whom a certificate is for.
#[derive(Clone, Debug)]
pub struct Node {
    /// The node's name in the cluster, or a scheduler's host; also the name of its files.
    pub name: HostId,
    /// Other DNS names and IP addresses under which others reach it.
    pub names: Vec<String>,
    /// What it may be besides a node.
    pub roles: BTreeSet<CertificateRole>,
    /// How long it is good, in days; at most as long as the CA.
    pub days: u32,
}

/// Signs for a node: `<name>.pem` and `<name>.key` in `dir`.
///
/// # Errors
/// A name that no certificate can have, files that are there already while `replace` is not set, or that cannot be written.
pub fn make(
    authority: &Authority,
    dir: &Path,
    node: &Node,
    replace: bool,
    now: OffsetDateTime,
) -> Result<Written, Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    let (from, until) = lifetime(now, node.days)?;
    (params.not_before, params.not_after) = (from, until.min(authority.not_after()));
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, node.name.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = names(node)?;
    let place = Place::new(dir, node.name.as_str(), replace)?;
    let key = KeyPair::generate()?;
    place.write(&params.signed_by(&key, authority.issuer())?.pem(), &key)?;
    Ok(Written {
        cert_file: place.cert_file,
        key_file: place.key_file,
        not_after: params.not_after,
    })
}

fn names(node: &Node) -> Result<Vec<SanType>, Error> {
    let own = std::iter::once(node.name.as_str());
    let all: BTreeSet<&str> = own.chain(node.names.iter().map(String::as_str)).collect();
    let mut names = all.into_iter().map(name).collect::<Result<Vec<_>, _>>()?;
    for role in &node.roles {
        names.push(SanType::URI(role.uri().try_into()?));
    }
    Ok(names)
}

fn name(text: &str) -> Result<SanType, Error> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    // What others could not look for is of no use in a certificate.
    rustls_pki_types::DnsName::try_from(text).map_err(|_| Error::Name(text.to_owned()))?;
    Ok(SanType::DnsName(text.try_into()?))
}
