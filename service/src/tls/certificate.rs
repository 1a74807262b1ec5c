//! What a certificate says: whose it is, what it is for, how long, and how to name it when it is to be refused.
//!
//! It only reads. Whether a certificate is to be believed is rustls's business.

use std::collections::BTreeSet;
use std::fmt;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::str::FromStr;

use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What a certificate lets its holder be: URIs among its subject alternative names (RFC 5280, section 4.2.1.6).
///
/// Every holder of a certificate is a node; what more he is, his certificate must say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CertificateRole {
    /// A node that fetches for itself and shares what it has. Needs no URI.
    Peer,
    /// A node that fetches from registries on behalf of others, and whose chains they take on its word.
    Seed,
    /// Tells nodes who has what.
    Scheduler,
    /// Tells schedulers and nodes where they belong and what to do.
    Manager,
}

impl CertificateRole {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Peer, Self::Seed, Self::Scheduler, Self::Manager];

    /// As it is written on a command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Seed => "seed",
            Self::Scheduler => "scheduler",
            Self::Manager => "manager",
        }
    }

    /// As it stands in a certificate.
    pub fn uri(self) -> &'static str {
        match self {
            Self::Peer => "darter://role/peer",
            Self::Seed => "darter://role/seed",
            Self::Scheduler => "darter://role/scheduler",
            Self::Manager => "darter://role/manager",
        }
    }
}

impl fmt::Display for CertificateRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why bytes are no certificate.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not an X.509 certificate: {0}")]
pub struct NotACertificate(String);

/// A sha256 over a whole certificate: no other one has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// The number that its CA gave a certificate; hexadecimal, without leading zeros.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(String);

impl Serial {
    fn of(bytes: &[u8]) -> Self {
        Self(trimmed(&hex(bytes)))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text names no certificate.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is neither a serial number in hexadecimal nor sha256: and the 64 digits of a fingerprint")]
pub struct NotAName(String);

impl FromStr for Serial {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        // As tools write it: with colons, in capitals.
        let digits = text.replace(':', "").to_ascii_lowercase();
        let is_number =
            (1..=64).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_number
            .then(|| Self(trimmed(&digits)))
            .ok_or_else(|| NotAName(text.chars().take(80).collect()))
    }
}

impl FromStr for Fingerprint {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let wrong = || NotAName(text.chars().take(80).collect());
        let digits = text.replace(':', "");
        let pairs = digits.as_bytes().chunks(2);
        let bytes: Option<Vec<u8>> = pairs
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        let bytes = bytes.filter(|_| digits.len() == 64 && !digits.contains('+'));
        Ok(Self(bytes.ok_or_else(wrong)?.try_into().map_err(|_| wrong())?))
    }
}

/// What one certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its distinguished name.
    pub subject: String,
    /// That of the one who signed it.
    pub issuer: String,
    /// The number that its CA gave it.
    pub serial: Serial,
    /// Names it among all certificates.
    pub fingerprint: Fingerprint,
    /// Names and patterns of hosts that it is for.
    pub dns: Vec<String>,
    /// Addresses that it is for.
    pub addresses: Vec<IpAddr>,
    /// What its holder is besides a node.
    pub roles: BTreeSet<CertificateRole>,
    /// Other URIs among its names.
    pub uris: Vec<String>,
    /// Seconds since 1970 from which on it is good.
    pub not_before: i64,
    /// Seconds since 1970 up to which it is good.
    pub not_after: i64,
    /// The public key that its holder has the private one of: a SubjectPublicKeyInfo in DER.
    pub public_key: Vec<u8>,
    /// Whether it may sign others.
    pub is_ca: bool,
    /// If it may sign others: the host names that those may have; empty = any.
    pub permitted: Vec<String>,
}

impl Certificate {
    /// Reads one in DER.
    ///
    /// # Errors
    /// It is none.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, NotACertificate> {
        let wrong = |error: &dyn fmt::Display| NotACertificate(error.to_string());
        let (_, parsed) = X509Certificate::from_der(der).map_err(|error| wrong(&error))?;
        let mut certificate = Self {
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            serial: Serial::of(parsed.raw_serial()),
            fingerprint: Fingerprint::of(der),
            dns: Vec::new(),
            addresses: Vec::new(),
            roles: BTreeSet::new(),
            uris: Vec::new(),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            public_key: parsed.public_key().raw.to_vec(),
            is_ca: parsed.is_ca(),
            permitted: Vec::new(),
        };
        if let Some(names) = parsed.subject_alternative_name().map_err(|error| wrong(&error))? {
            for name in &names.value.general_names {
                certificate.add(name);
            }
        }
        if let Some(constraints) = parsed.name_constraints().map_err(|error| wrong(&error))? {
            let permitted = constraints.value.permitted_subtrees.iter().flatten();
            certificate
                .permitted
                .extend(permitted.filter_map(|subtree| match &subtree.base {
                    GeneralName::DNSName(name) => Some((*name).to_owned()),
                    _ => None,
                }));
        }
        Ok(certificate)
    }

    fn add(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.dns.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => self.addresses.extend(address(bytes)),
            GeneralName::URI(uri) => match CertificateRole::ALL.into_iter().find(|role| role.uri() == *uri) {
                Some(role) => {
                    self.roles.insert(role);
                }
                None => self.uris.push((*uri).to_owned()),
            },
            _ => {}
        }
    }

    /// Whether its holder may act as `role`. Everybody may be a peer.
    pub fn may_act_as(&self, role: CertificateRole) -> bool {
        role == CertificateRole::Peer || self.roles.contains(&role)
    }

    /// Whether it is over at `now`, in seconds since 1970.
    pub fn is_over(&self, now: i64) -> bool {
        now > self.not_after
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four: Option<[u8; 4]> = bytes.try_into().ok();
    let sixteen: Option<[u8; 16]> = bytes.try_into().ok();
    four.map(IpAddr::from).or_else(|| sixteen.map(IpAddr::from))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn trimmed(digits: &str) -> String {
    match digits.trim_start_matches('0') {
        "" => "0".to_owned(),
        rest => rest.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType, SerialNumber};

    #[test]
    fn reads_what_was_written() {
        let mut params = CertificateParams::new(vec!["node-1".to_owned(), "10.0.0.7".to_owned()]).unwrap();
        for uri in ["darter://role/seed", "darter://role/emperor"] {
            params
                .subject_alt_names
                .push(SanType::URI(uri.try_into().unwrap()));
        }
        params.serial_number = Some(SerialNumber::from(vec![0, 0x0a, 0xff]));
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 2);
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let read = Certificate::read(made.der()).unwrap();
        assert_eq!(read.dns, ["node-1"]);
        assert_eq!(read.addresses, ["10.0.0.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(read.uris, ["darter://role/emperor"]);
        assert_eq!(read.serial, "00:0A:FF".parse().unwrap());
        assert_eq!(read.serial.to_string(), "aff");
        assert_eq!(read.not_after - read.not_before, 86_400);
        assert!(read.is_over(read.not_after + 1) && !read.is_over(read.not_after));
        assert!(!read.is_ca && read.permitted.is_empty());
        assert!(read.may_act_as(CertificateRole::Seed) && read.may_act_as(CertificateRole::Peer));
        assert!(!read.may_act_as(CertificateRole::Scheduler));
        let named = read.fingerprint.to_string();
        assert_eq!(named.parse::<Fingerprint>().unwrap(), read.fingerprint);
    }

    #[test]
    fn what_names_no_certificate_is_refused() {
        let long = "a".repeat(65);
        for bad in ["", "xyz", "-1", "12 34", &long] {
            assert!(bad.parse::<Serial>().is_err(), "{bad:?}");
        }
        let plus = "+1".repeat(32);
        for bad in ["", "00", &plus, &"zz".repeat(32), &"é".repeat(32)] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad:?}");
        }
        assert_eq!("000".parse::<Serial>().unwrap().to_string(), "0");
    }

    #[test]
    fn junk_is_no_certificate() {
        for junk in [&b""[..], b"\x30\x03\x02\x01", &[0x30; 64]] {
            assert!(Certificate::read(&CertificateDer::from(junk)).is_err());
        }
    }
}
