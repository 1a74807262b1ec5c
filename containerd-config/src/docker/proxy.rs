//! Docker behind the forward proxy: for registries that its classic image store knows no mirrors for.
//!
//! A drop-in for systemd names the proxy, rather than `proxies` in `daemon.json`, which daemons before Docker 23 refuse to
//! start with. Where the proxy is to look into the tunnels to registries, Docker is told to trust its authority for those
//! registries alone, by a file of its own beside whatever stands there. A proxy that asks for a user is named in a file that
//! only its owner may read: everybody may ask systemd what stands in a unit.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use url::Url;

use super::daemon::Daemon;
use super::{CONFIG, HOSTS_DIRECTORY, PROXY_VARIABLES, unit_files};
use crate::plan::{Change, without_passwords};
use crate::{Error, Note, Plan, Registry, Runtime, rooted};

/// The drop-in. The name sorts late, so that it counts where others set the same.
const DROP_IN: &str = "/etc/systemd/system/docker.service.d/90-darter-proxy.conf";
/// Names the proxy where that takes a password.
const SECRETS: &str = "/etc/docker/darter-proxy.env";
/// The authority's certificate in a registry's directory: Docker trusts every `.crt` there.
const AUTHORITY: &str = "darter-interception.crt";

/// What `darter setup docker --proxy` was asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node's file system: `/`, or where it is mounted.
    pub root: PathBuf,
    /// The `daemon.json` to look at instead of `/etc/docker/daemon.json`; as seen from inside the root.
    pub config: Option<PathBuf>,
    /// The address of the forward proxy.
    pub proxy: ProxyAddress,
    /// The certificate of the proxy's authority for interception, in PEM, as seen from inside the root.
    pub ca_file: Option<PathBuf>,
    /// The registries for which Docker trusts it.
    pub registries: Vec<Registry>,
}

/// The address of a forward proxy, with user and password where it asks for them; those are shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyAddress(Url);

impl ProxyAddress {
    fn is_secret(&self) -> bool {
        !self.0.username().is_empty() || self.0.password().is_some()
    }

    /// As the daemon is given it.
    fn text(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }
}

impl FromStr for ProxyAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |reason: &str| Error::InvalidProxy {
            url: without_passwords(text),
            reason: reason.to_owned(),
        };
        let url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refuse("the scheme must be http or https"));
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("a proxy has a host and a port, nothing behind them"));
        }
        Ok(Self(url))
    }
}

impl fmt::Display for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_passwords(self.text()))
    }
}

impl fmt::Debug for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What has to change so that Docker reaches registries through the forward proxy. Reads only.
///
/// # Errors
/// Any [`Error`] about what is there now: another proxy, or an authority that cannot be read or used.
pub fn plan(options: &Options) -> Result<Plan, Error> {
    let root = &options.root;
    refuse_other_proxies(options)?;
    let mut plan = Plan::new(root, Runtime::Docker);
    if let Some(ca_file) = &options.ca_file {
        let authority = authority(root, ca_file)?;
        for registry in &options.registries {
            if registry.is_docker_hub() {
                return Err(Error::InvalidRegistry {
                    name: registry.to_string(),
                    reason: "Docker trusts the system's authorities alone for Docker Hub; use its mirror setting",
                });
            }
            let path = Path::new(HOSTS_DIRECTORY).join(registry.name()?).join(AUTHORITY);
            write(&mut plan, path, authority.clone(), Read::AtEachPull)?;
        }
    }
    let address = options.proxy.text();
    let mut changes = false;
    let proxy = if options.proxy.is_secret() {
        let text = format!("HTTPS_PROXY=\"{address}\"\n").into_bytes();
        changes |= write(&mut plan, PathBuf::from(SECRETS), text, Read::SecretAtStart)?;
        format!("EnvironmentFile={SECRETS}")
    } else {
        format!("Environment=\"HTTPS_PROXY={address}\"")
    };
    let text = format!(
        "# Written by `darter setup docker --proxy`.\n[Service]\n{proxy}\n\
         Environment=\"NO_PROXY=localhost,127.0.0.0/8,::1\"\n"
    );
    changes |= write(
        &mut plan,
        PathBuf::from(DROP_IN),
        text.into_bytes(),
        Read::AtStart,
    )?;
    if changes {
        plan.note(Note::UnitChanged {
            path: PathBuf::from(DROP_IN),
        });
    }
    Ok(plan)
}

/// When the daemon reads a file, and who else may.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    AtEachPull,
    AtStart,
    /// Nobody else.
    SecretAtStart,
}

/// Adds a file to the plan; whether it is not there as it should be.
fn write(plan: &mut Plan, path: PathBuf, after: Vec<u8>, read: Read) -> Result<bool, Error> {
    let before = rooted::read(&plan.root, &path)?;
    let changes = before.as_deref() != Some(after.as_slice());
    if changes {
        plan.change(Change {
            path,
            before,
            after: Some(after),
            restart: read != Read::AtEachPull,
            private: read == Read::SecretAtStart,
        });
    }
    Ok(changes)
}

/// Reads the authority's certificate, and nothing that is more than a certificate: the file becomes readable for all.
fn authority(root: &Path, path: &Path) -> Result<Vec<u8>, Error> {
    let unusable = |reason| Error::InvalidAuthority {
        path: path.to_path_buf(),
        reason,
    };
    let bytes = rooted::read(root, path)?.ok_or_else(|| unusable("it does not exist"))?;
    let text = String::from_utf8_lossy(&bytes);
    if text.contains("PRIVATE KEY") {
        return Err(unusable("there is a private key in it"));
    }
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        return Err(unusable("there is no certificate in PEM in it"));
    }
    Ok(bytes)
}

/// Another proxy is there for a reason: ours has none behind it.
fn refuse_other_proxies(options: &Options) -> Result<(), Error> {
    let root = &options.root;
    for path in unit_files(root)? {
        if path == Path::new(DROP_IN) {
            continue;
        }
        let bytes = rooted::read(root, &path)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.lines().map(str::trim_start);
        let sets = |line: &str| PROXY_VARIABLES.iter().any(|variable| line.contains(variable));
        if lines.any(|line| !line.starts_with(['#', ';']) && sets(line)) {
            return Err(Error::OtherProxy { path });
        }
    }
    let path = options.config.clone().unwrap_or_else(|| PathBuf::from(CONFIG));
    let bytes = rooted::read(root, &path)?.unwrap_or_default();
    if Daemon::parse(&path, &bytes)?.has("proxies") {
        return Err(Error::OtherProxy { path });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const CA: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    const CA_FILE: &str = "/etc/darter/interception-ca.pem";

    fn node(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn options(root: &tempfile::TempDir, registries: &[&str]) -> Options {
        Options {
            root: root.path().to_path_buf(),
            config: None,
            proxy: "http://127.0.0.1:4003".parse().unwrap(),
            ca_file: Some(PathBuf::from(CA_FILE)),
            registries: registries.iter().map(|name| name.parse().unwrap()).collect(),
        }
    }

    fn there(root: &tempfile::TempDir, path: &str) -> Option<String> {
        fs::read_to_string(root.path().join(path.trim_start_matches('/'))).ok()
    }

    #[test]
    fn the_daemon_gets_a_proxy_and_the_registries_an_authority_and_undo_takes_them_back() {
        let own = "/etc/docker/certs.d/r.example:5000/ca.crt";
        let root = node(&[
            (CA_FILE, CA),
            (own, "mine"),
            ("/etc/docker/daemon.json", "{\"a\": 1}"),
        ]);
        let state = tempfile::tempdir().unwrap();
        let options = options(&root, &["r.example:5000", "ghcr.io"]);
        let first = plan(&options).unwrap();
        assert!(
            first
                .notes
                .iter()
                .any(|note| note.to_string().contains("daemon-reload"))
        );
        first.apply(state.path()).unwrap();
        let drop_in = there(&root, DROP_IN).unwrap();
        assert!(
            drop_in.contains("Environment=\"HTTPS_PROXY=http://127.0.0.1:4003\"\n"),
            "{drop_in}"
        );
        assert!(drop_in.contains("NO_PROXY=localhost,"), "{drop_in}");
        for registry in ["r.example:5000", "ghcr.io"] {
            let path = format!("{HOSTS_DIRECTORY}/{registry}/{AUTHORITY}");
            assert_eq!(there(&root, &path).as_deref(), Some(CA));
        }
        assert!(plan(&options).unwrap().changes.is_empty(), "a second time");
        super::super::undo(root.path(), state.path())
            .unwrap()
            .apply(state.path())
            .unwrap();
        assert_eq!(there(&root, DROP_IN), None);
        assert_eq!(
            there(&root, &format!("{HOSTS_DIRECTORY}/ghcr.io/{AUTHORITY}")),
            None
        );
        assert_eq!(there(&root, own).as_deref(), Some("mine"));
    }

    #[test]
    fn a_password_stands_in_a_file_that_only_its_owner_reads_and_is_never_shown() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = node(&[]);
        let state = tempfile::tempdir().unwrap();
        let options = Options {
            ca_file: None,
            proxy: "http://anna:c%40n%25ary@10.0.0.5:4003".parse().unwrap(),
            ..options(&root, &[])
        };
        let canary = "c%40n%25ary";
        let first = plan(&options).unwrap();
        let shown = format!("{first:?} {:?} {}", options, options.proxy);
        assert!(!shown.contains(canary), "{shown}");
        let rendered = first.render();
        assert!(
            rendered.contains("+HTTPS_PROXY=\"http://anna:***@10.0.0.5:4003\""),
            "{rendered}"
        );
        first.apply(state.path()).unwrap();
        let secrets = root.path().join(SECRETS.trim_start_matches('/'));
        assert_eq!(
            fs::read_to_string(&secrets).unwrap(),
            format!("HTTPS_PROXY=\"http://anna:{canary}@10.0.0.5:4003\"\n")
        );
        assert_eq!(
            fs::metadata(&secrets).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let drop_in = there(&root, DROP_IN).unwrap();
        assert!(
            drop_in.contains("EnvironmentFile=/etc/docker/darter-proxy.env\n"),
            "{drop_in}"
        );
        assert!(!drop_in.contains("anna"), "{drop_in}");
        assert!(plan(&options).unwrap().changes.is_empty(), "a second time");
        let undo = super::super::undo(root.path(), state.path()).unwrap();
        assert!(!undo.render().contains(canary));
        undo.apply(state.path()).unwrap();
        assert!(!secrets.exists() && there(&root, DROP_IN).is_none());
    }

    #[test]
    fn addresses_that_are_no_proxy_are_told_without_their_password() {
        for wrong in [
            "ftp://u:canary@h:1",
            "http://u:canary@h:1/path",
            "http://u:canary@h:1?x",
            "h:1",
        ] {
            let error = wrong.parse::<ProxyAddress>().unwrap_err().to_string();
            assert!(error.contains("no proxy") && !error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn another_proxy_is_left_alone() {
        let unit = "/etc/systemd/system/docker.service.d/http-proxy.conf";
        let environment = "/etc/default/docker";
        let daemon = "/etc/docker/daemon.json";
        for (path, text) in [
            (unit, "[Service]\nEnvironment=\"HTTPS_PROXY=http://corp:3128\"\n"),
            (environment, "export https_proxy=\"http://corp:3128\"\n"),
            (daemon, "{\"proxies\": {\"https-proxy\": \"http://corp:3128\"}}"),
        ] {
            let root = node(&[(CA_FILE, CA), (path, text)]);
            let error = plan(&options(&root, &["ghcr.io"])).unwrap_err();
            assert!(
                matches!(&error, Error::OtherProxy { path: found } if found == Path::new(path)),
                "{error}"
            );
        }
        let root = node(&[(CA_FILE, CA), (unit, "# HTTPS_PROXY=http://corp:3128\n")]);
        assert!(plan(&options(&root, &["ghcr.io"])).is_ok());
    }

    #[test]
    fn what_docker_would_not_use_or_must_not_show_is_refused() {
        for (ca, registry, said) in [
            ("no", "ghcr.io", "no certificate in PEM"),
            ("-----BEGIN PRIVATE KEY-----", "ghcr.io", "a private key"),
            (CA, "docker.io", "Docker Hub"),
            (CA, "_default", "name each"),
        ] {
            let root = node(&[(CA_FILE, ca)]);
            let error = plan(&options(&root, &[registry])).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let root = node(&[]);
        let error = plan(&options(&root, &["ghcr.io"])).unwrap_err().to_string();
        assert!(error.contains("does not exist"), "{error}");
        let blind = Options {
            ca_file: None,
            ..options(&root, &[])
        };
        assert_eq!(plan(&blind).unwrap().changes.len(), 1);
    }
}
