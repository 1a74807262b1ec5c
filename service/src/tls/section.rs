//! Section `tls` of a role's configuration: whether nodes prove who they are.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{NodeTls, TlsError};
use crate::config::{Period, Problems};

/// A look reads four small files.
const RELOAD_MIN: Duration = Duration::from_secs(1);
/// Who is revoked is heard no longer than this.
const RELOAD_MAX: Duration = Duration::from_secs(60);

/// Certificates between nodes, and between nodes and schedulers. All three files, or none: then nothing between them is
/// encrypted, and nobody proves who he is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct TlsConfig {
    /// The certificate in PEM, followed by those that lead to its CA.
    pub cert_file: Option<PathBuf>,
    /// Its private key in PEM: PKCS#8, PKCS#1 or SEC1.
    pub key_file: Option<PathBuf>,
    /// The CA that signs nodes and schedulers, and nothing else: whoever has a certificate of it is one.
    pub ca_file: Option<PathBuf>,
    /// Certificates that are not believed any more, one a line: serial numbers, or `sha256:` and fingerprints.
    pub revoked_file: Option<PathBuf>,
    /// How often the files are looked at again; 1s to 60s. What is new is used without a restart.
    pub reload_interval: Period,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            cert_file: None,
            key_file: None,
            ca_file: None,
            revoked_file: None,
            reload_interval: Period::secs(10),
        }
    }
}

impl TlsConfig {
    /// Whether nodes prove nothing to one another.
    pub fn is_off(&self) -> bool {
        matches!(self.files(), Ok(None))
    }

    /// The files; `None` when nothing is to be encrypted.
    ///
    /// # Errors
    /// Some files are named and some are not.
    pub fn files(&self) -> Result<Option<NodeTls>, TlsError> {
        match (&self.cert_file, &self.key_file, &self.ca_file) {
            (None, None, None) => Ok(None),
            (Some(cert_file), Some(key_file), Some(ca_file)) => Ok(Some(NodeTls {
                cert_file: cert_file.clone(),
                key_file: key_file.clone(),
                ca_file: ca_file.clone(),
                revoked_file: self.revoked_file.clone(),
            })),
            _ => Err(TlsError::Incomplete),
        }
    }

    /// Adds the keys that are missing when others are there.
    pub fn validate(&self, problems: &mut Problems) {
        let interval = self.reload_interval.as_duration();
        if !(RELOAD_MIN..=RELOAD_MAX).contains(&interval) {
            problems.add("reloadInterval", "must be 1s to 60s");
        }
        if self.is_off() && self.revoked_file.is_some() {
            problems.add("revokedFile", "is of no use without certFile, keyFile and caFile");
        }
        if self.files().is_ok() {
            return;
        }
        for (key, file) in [
            ("certFile", &self.cert_file),
            ("keyFile", &self.key_file),
            ("caFile", &self.ca_file),
        ] {
            if file.is_none() {
                problems.add(
                    key,
                    "is missing: name certFile, keyFile and caFile, or none of them",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_or_none() {
        let mut config = TlsConfig::default();
        assert_eq!(config.files().unwrap(), None);
        config.key_file = Some("node.key".into());
        assert!(matches!(config.files(), Err(TlsError::Incomplete)));
        let mut problems = Problems::new();
        problems.within("tls", |problems| config.validate(problems));
        let paths: Vec<&str> = problems.found().iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["tls.certFile", "tls.caFile"]);
        config.cert_file = Some("node.pem".into());
        config.ca_file = Some("ca.pem".into());
        assert_eq!(config.files().unwrap().unwrap().ca_file, PathBuf::from("ca.pem"));
        let mut problems = Problems::new();
        config.validate(&mut problems);
        assert!(problems.is_empty());
    }

    #[test]
    fn a_list_or_an_interval_that_does_nothing_is_a_mistake() {
        let config = TlsConfig {
            revoked_file: Some("revoked".into()),
            reload_interval: Period::secs(61),
            ..TlsConfig::default()
        };
        let mut problems = Problems::new();
        config.validate(&mut problems);
        let paths: Vec<&str> = problems.found().iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["reloadInterval", "revokedFile"]);
    }
}
