//! Where a node's own credentials for a registry come from, and who may use them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::LocalUser;

/// The node's credentials for one registry: one source, and the word that callers share it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CredentialsConfig {
    /// Who reads by them. `node` is the only word, and has to be said: clients of this proxy that bring no credentials of
    /// their own, and are processes of `users`, then read whatever this node may read there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
    /// The users of this machine whose processes do, by name or number. Default root alone: container runtimes run as root,
    /// and so does Docker's daemon.
    pub users: Vec<LocalUser>,
    /// Docker's configuration file: its `auths`, `credHelpers` and `credsStore`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub docker_config: Option<PathBuf>,
    /// The kubelet's `CredentialProviderConfig` (v1), together with `kubeletBinDir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubelet_config: Option<PathBuf>,
    /// The directory of the providers that it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubelet_bin_dir: Option<PathBuf>,
    /// A file with the user's name, together with `passwordFile`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username_file: Option<PathBuf>,
    /// A file with the password. Files are read again within a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

/// Who reads by a node's credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Share {
    /// Clients of this node's proxy that bring none of their own.
    Node,
}

impl Default for CredentialsConfig {
    fn default() -> Self {
        Self {
            share: None,
            users: vec![LocalUser::root()],
            docker_config: None,
            kubelet_config: None,
            kubelet_bin_dir: None,
            username_file: None,
            password_file: None,
        }
    }
}

impl CredentialsConfig {
    /// All that is wrong with it; each text starts with the path of the key, below `at`.
    pub(crate) fn problems(&self, at: &str, problems: &mut Vec<String>) {
        if self.share.is_none() {
            problems.push(format!(
                "{at}.share: is missing; write node if processes of `users` may read what this node may read there"
            ));
        }
        if self.users.is_empty() {
            problems.push(format!("{at}.users: names nobody; leave it out for root alone"));
        }
        let pairs = [
            (
                "kubeletConfig",
                &self.kubelet_config,
                "kubeletBinDir",
                &self.kubelet_bin_dir,
            ),
            (
                "usernameFile",
                &self.username_file,
                "passwordFile",
                &self.password_file,
            ),
        ];
        let mut sources = usize::from(self.docker_config.is_some());
        for (one, first, other, second) in pairs {
            sources += usize::from(first.is_some() || second.is_some());
            match (first, second) {
                (Some(_), None) => problems.push(format!("{at}.{other}: is missing beside {one}")),
                (None, Some(_)) => problems.push(format!("{at}.{one}: is missing beside {other}")),
                _ => {}
            }
        }
        if sources != 1 {
            problems.push(format!(
                "{at}: name one source: dockerConfig, or kubeletConfig and kubeletBinDir, or usernameFile and passwordFile"
            ));
        }
        let files = [
            ("dockerConfig", &self.docker_config),
            ("kubeletConfig", &self.kubelet_config),
            ("kubeletBinDir", &self.kubelet_bin_dir),
            ("usernameFile", &self.username_file),
            ("passwordFile", &self.password_file),
        ];
        for (key, file) in files {
            if file.as_ref().is_some_and(|file| !file.is_absolute()) {
                problems.push(format!("{at}.{key}: must be an absolute path"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(config: &CredentialsConfig) -> Vec<String> {
        let mut problems = Vec::new();
        config.problems("c", &mut problems);
        problems
            .iter()
            .map(|problem| problem.split(": ").next().unwrap_or_default().to_owned())
            .collect()
    }

    #[test]
    fn one_source_and_the_word_that_it_is_shared() {
        assert_eq!(problems(&CredentialsConfig::default()), ["c.share", "c"]);
        let good = CredentialsConfig {
            share: Some(Share::Node),
            docker_config: Some("/a".into()),
            ..CredentialsConfig::default()
        };
        assert!(problems(&good).is_empty());
        let two = CredentialsConfig {
            kubelet_config: Some("/b".into()),
            ..good.clone()
        };
        assert_eq!(problems(&two), ["c.kubeletBinDir", "c"]);
        let half = CredentialsConfig {
            docker_config: None,
            password_file: Some("relative".into()),
            ..good
        };
        assert_eq!(problems(&half), ["c.usernameFile", "c.passwordFile"]);
        let nobody = CredentialsConfig {
            users: Vec::new(),
            ..two
        };
        assert_eq!(problems(&nobody), ["c.users", "c.kubeletBinDir", "c"]);
    }
}
