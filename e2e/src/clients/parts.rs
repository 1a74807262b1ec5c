//! What a scene is put together from: names, certificates, registries, and the proxy's configuration.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use super::{DOCKER_HUB, FORWARD, HTPASSWD, NAMES, PASSWORD, UPSTREAM, USER, Visibility};
use crate::darter::{Darter, Role, Surroundings, proxy_config};
use crate::image::Fixtures;
use crate::lab::Lab;
use crate::netns::Namespace;
use crate::registry::{Door, Registry};

/// Runs what follows with the scene's names in `/etc/hosts`, and the files of [`Scene::root`] in `/etc/docker` if there are any.
pub(super) fn sees_names(lab: &Lab) -> Vec<String> {
    let script = "mount --bind \"$0\" /etc/hosts; [ ! -d \"$1\" ] || mount --bind \"$1\" /etc/docker; shift; exec \"$@\"";
    let docker = lab.folder_of("n0").join("root/etc/docker");
    let files = [lab.folder().join("hosts"), docker].map(|path| path.display().to_string());
    let words = [
        "unshare",
        "--mount",
        "--propagation",
        "slave",
        "sh",
        "-ec",
        script,
    ];
    words.map(str::to_owned).into_iter().chain(files).collect()
}

/// Both registries of the same images: `origin` plain at its address, `direct` with TLS under the names that images have.
pub(super) fn serve(
    lab: &Lab,
    fixtures: &Fixtures,
    visibility: Visibility,
    origin: &Namespace,
    direct: &Namespace,
) -> Result<(Registry, Registry)> {
    let folder = lab.folder();
    let users = folder.join("htpasswd");
    std::fs::write(&users, HTPASSWD)?;
    let users = (visibility == Visibility::Private).then_some(users.as_path());
    let (certificate, key) = certificates(folder)?;
    let plain = Door {
        users,
        ..Door::default()
    };
    let tls = Door {
        port: 443,
        tls: Some((&certificate, &key)),
        users,
    };
    let names = format!(
        "127.0.0.1 localhost\n{} {UPSTREAM} {DOCKER_HUB}\n",
        direct.address()
    );
    std::fs::write(folder.join("hosts"), names)?;
    Ok((
        Registry::serve_at(origin, &fixtures.store, &lab.folder_of("origin"), &plain)?,
        Registry::serve_at(direct, &fixtures.store, &lab.folder_of("direct"), &tls)?,
    ))
}

pub(super) fn start_proxy(lab: &Lab, node: &Namespace, config: &Value) -> Result<Darter> {
    Darter::proxy_as(node, &lab.folder_of("n0"), config, &sees_names(lab))
}

/// The forward proxy, and [`UPSTREAM`] by its name: with its authority, and although its address is private.
pub(super) fn forward(lab: &Lab, config: &mut Value) {
    config["forward"] = json!({ "listen": FORWARD });
    config["origin"]["registries"][UPSTREAM] = json!({ "caFile": lab.folder().join("ca.pem") });
}

/// Credentials of the node's own, for every registry that it knows.
pub(super) fn give_credentials(lab: &Lab, config: &mut Value) -> Result<()> {
    let secret = |name: &str, text: &str| -> Result<PathBuf> {
        let path = lab.folder_of("n0").join(name);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(path)
    };
    let credentials = json!({
        "share": "node",
        "usernameFile": secret("user", USER)?,
        "passwordFile": secret("password", PASSWORD)?,
    });
    for name in NAMES {
        config["origin"]["registries"][name]["credentials"] = credentials.clone();
    }
    Ok(())
}

pub(super) fn configuration(node: &Namespace, store: &Path, origin: &str) -> Value {
    let around = Surroundings {
        schedulers: Vec::new(),
        registry: origin.to_owned(),
    };
    let mut config = proxy_config(node, Role::Peer, store, &around);
    let registries = config.pointer_mut("/origin/registries");
    if let Some(registries) = registries.and_then(Value::as_object_mut) {
        for name in NAMES {
            registries.insert(name.to_owned(), json!({ "endpoint": origin }));
        }
    }
    config
}

/// An authority in `ca.pem`, and a certificate of it for the names of the direct registry.
fn certificates(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate()?;
    std::fs::write(folder.join("ca.pem"), ca.self_signed(&ca_key)?.pem())?;
    let issuer = Issuer::new(ca, ca_key);
    let names = vec![UPSTREAM.to_owned(), DOCKER_HUB.to_owned()];
    let key = KeyPair::generate()?;
    let (certificate, key_file) = (folder.join("direct.pem"), folder.join("direct.key"));
    std::fs::write(
        &certificate,
        CertificateParams::new(names)?.signed_by(&key, &issuer)?.pem(),
    )?;
    std::fs::write(&key_file, key.serialize_pem())?;
    Ok((certificate, key_file))
}
