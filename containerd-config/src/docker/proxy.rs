//! Docker behind the forward proxy: for registries that its classic image store knows no mirrors for.
//!
//! A drop-in for systemd names the proxy, rather than `proxies` in `daemon.json`, which daemons before Docker 23 refuse to
//! start with. Where the proxy is to look into the tunnels to registries, Docker is told to trust its authority for those
//! registries alone, by a file of its own beside whatever stands there.

use std::path::{Path, PathBuf};

use super::daemon::Daemon;
use super::{CONFIG, HOSTS_DIRECTORY, unit_files};
use crate::plan::Change;
use crate::{Error, Mirror, Note, Plan, Registry, Runtime, rooted};

/// The drop-in. The name sorts late, so that it counts where others set the same.
const DROP_IN: &str = "/etc/systemd/system/docker.service.d/90-darter-proxy.conf";
/// The authority's certificate in a registry's directory: Docker trusts every `.crt` there.
const AUTHORITY: &str = "darter-interception.crt";
/// What names a proxy for TLS in a unit or an environment file.
const VARIABLES: [&str; 2] = ["HTTPS_PROXY=", "https_proxy="];

/// What `darter setup docker --proxy` was asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node's file system: `/`, or where it is mounted.
    pub root: PathBuf,
    /// The `daemon.json` to look at instead of `/etc/docker/daemon.json`; as seen from inside the root.
    pub config: Option<PathBuf>,
    /// The address of the forward proxy.
    pub proxy: Mirror,
    /// The certificate of the proxy's authority for interception, in PEM, as seen from inside the root.
    pub ca_file: Option<PathBuf>,
    /// The registries for which Docker trusts it.
    pub registries: Vec<Registry>,
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
            write(&mut plan, path, authority.clone(), false)?;
        }
    }
    let text = format!(
        "# Written by `darter setup docker --proxy`.\n[Service]\nEnvironment=\"HTTPS_PROXY={}\"\n\
         Environment=\"NO_PROXY=localhost,127.0.0.0/8,::1\"\n",
        options.proxy.as_str()
    );
    if write(&mut plan, PathBuf::from(DROP_IN), text.into_bytes(), true)? {
        plan.note(Note::UnitChanged {
            path: PathBuf::from(DROP_IN),
        });
    }
    Ok(plan)
}

/// Adds a file to the plan; whether it is not there as it should be.
fn write(plan: &mut Plan, path: PathBuf, after: Vec<u8>, restart: bool) -> Result<bool, Error> {
    let before = rooted::read(&plan.root, &path)?;
    let changes = before.as_deref() != Some(after.as_slice());
    if changes {
        plan.change(Change {
            path,
            before,
            after: Some(after),
            restart,
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
        let sets = |line: &str| VARIABLES.iter().any(|variable| line.contains(variable));
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
