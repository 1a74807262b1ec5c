//! Certificates that are not believed any more before their time is over: a list in a file.
//!
//! One a line, by serial number in hexadecimal or by `sha256:` and fingerprint, as `darter certs show` prints them; `#`
//! begins a comment. A serial number stands for every certificate that has it, whoever signed it.

use std::collections::BTreeSet;
use std::path::Path;

use rustls_pki_types::CertificateDer;

use super::{Certificate, Fingerprint, Serial, TlsError, read, unusable};

/// Most lines of a list, those without a certificate included: a longer one is a mistake.
const LINES_MAX: usize = 100_000;

/// A list that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    serials: BTreeSet<Serial>,
    fingerprints: BTreeSet<Fingerprint>,
}

impl Revoked {
    /// Reads a list.
    ///
    /// # Errors
    /// The file cannot be read, is longer than 100,000 lines, or has a line that names no certificate: then nothing of it
    /// is taken, since the line may be the one that matters.
    pub fn read(path: &Path) -> Result<Self, TlsError> {
        let bytes = read(path)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| unusable(path, &"it is not text"))?;
        let mut list = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            if number > LINES_MAX {
                return Err(unusable(path, &format!("it has more than {LINES_MAX} lines")));
            }
            let entry = line.split('#').next().unwrap_or_default().trim();
            if !entry.is_empty() {
                list.add(entry)
                    .map_err(|error| unusable(path, &format!("line {number}: {error}")))?;
            }
        }
        Ok(list)
    }

    fn add(&mut self, entry: &str) -> Result<(), super::NotAName> {
        match entry.strip_prefix("sha256:") {
            Some(fingerprint) => self.fingerprints.insert(fingerprint.parse()?),
            None => self.serials.insert(entry.parse()?),
        };
        Ok(())
    }

    /// Whether one of a chain is on the list. One that cannot be read is: nobody can say that it is not.
    pub fn has_one_of(&self, chain: &[CertificateDer<'_>]) -> bool {
        !self.is_empty() && chain.iter().any(|der| self.has(der))
    }

    fn has(&self, der: &CertificateDer<'_>) -> bool {
        self.fingerprints.contains(&Fingerprint::of(der))
            || Certificate::read(der).map_or(true, |certificate| self.serials.contains(&certificate.serial))
    }

    /// How many certificates are named.
    pub fn len(&self) -> usize {
        self.serials.len() + self.fingerprints.len()
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::KeyPair;

    fn list(text: &str) -> Result<Revoked, TlsError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Revoked::read(file.path())
    }

    #[test]
    fn names_certificates_by_serial_or_fingerprint() {
        let make = || {
            let params = rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap();
            let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            made.der().clone()
        };
        let (one, other) = (make(), make());
        let facts = Certificate::read(&one).unwrap();
        for line in [facts.serial.to_string(), format!("sha256:{}", facts.fingerprint)] {
            let list = list(&format!("# lost\n\n  {line}  # node1\r\n")).unwrap();
            assert_eq!(list.len(), 1);
            assert!(list.has_one_of(&[other.clone(), one.clone()]), "{line}");
            assert!(!list.has_one_of(std::slice::from_ref(&other)), "{line}");
        }
        assert!(!list("").unwrap().has_one_of(&[one]));
    }

    #[test]
    fn a_line_that_says_nothing_is_an_error_with_its_number() {
        for bad in ["# fine\nnode1", "12\nsha256:12", "12 34"] {
            let text = list(bad).unwrap_err().to_string();
            assert!(text.contains("line "), "{text}");
        }
        let long = "1\n".repeat(LINES_MAX + 1);
        assert!(list(&long).unwrap_err().to_string().contains("more than"));
        assert!(Revoked::read(Path::new("/nonexistent")).is_err());
    }
}
