//! Good files work together; every bad one is refused by name.

use super::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ClientConnection, ServerConnection};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use tempfile::TempDir;

/// A CA and what it signed, as files.
pub(super) struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self {
            dir,
            issuer: Issuer::new(params, key),
        }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn node(&self, name: &str) -> NodeTls {
        self.sign(name, |_| {})
    }

    pub(super) fn sign(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> NodeTls {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let tls = NodeTls {
            cert_file: self.file(&format!("{name}.pem")),
            key_file: self.file(&format!("{name}.key")),
            ca_file: self.file("ca.pem"),
            revoked_file: None,
        };
        fs::write(&tls.cert_file, certificate.pem()).unwrap();
        fs::write(&tls.key_file, key.serialize_pem()).unwrap();
        set_mode(&tls.key_file, 0o600);
        tls
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A handshake without a socket.
fn shake_hands(
    client: impl Into<Arc<ClientConfig>>,
    server: impl Into<Arc<ServerConfig>>,
) -> Result<rustls::ProtocolVersion, rustls::Error> {
    let mut client = ClientConnection::new(client.into(), "server".try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(server.into()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(client.protocol_version().unwrap())
}

#[test]
fn nodes_of_one_authority_talk_tls_1_3() {
    let ours = Authority::new();
    let (client, server) = (
        ours.node("client").load().unwrap().client(Protocol::Http1),
        ours.node("server").load().unwrap().server(Protocol::Http1),
    );
    assert_eq!(shake_hands(client, server), Ok(rustls::ProtocolVersion::TLSv1_3));
}

#[test]
fn a_node_refuses_strangers_on_both_sides() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = || ours.node("server").load().unwrap().server(Protocol::Http1);
    // It believes our server, but has no certificate, or one that somebody else signed.
    let anonymous = client(Some(&ours.file("ca.pem"))).unwrap();
    assert!(matches!(
        shake_hands(anonymous, server()),
        Err(rustls::Error::NoCertificatesPresented)
    ));
    let files = theirs.node("client");
    let (chain, key) = (
        certificate_ders(&files.cert_file).unwrap(),
        private_key(&files.key_file).unwrap(),
    );
    let stranger = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&NODE_VERSIONS)
        .unwrap()
        .with_root_certificates(authorities(&ours.file("ca.pem")).unwrap())
        .with_client_auth_cert(chain, key)
        .unwrap();
    let refused = shake_hands(stranger, server());
    assert!(
        matches!(refused, Err(rustls::Error::InvalidCertificate(_))),
        "{refused:?}"
    );
    let refused = shake_hands(
        theirs.node("client").load().unwrap().client(Protocol::Http1),
        server(),
    );
    assert!(
        matches!(refused, Err(rustls::Error::InvalidCertificate(_))),
        "{refused:?}"
    );
}

#[test]
fn anyone_may_talk_to_a_plain_server_whose_authority_he_believes() {
    let ours = Authority::new();
    let node = ours.node("server");
    let identity = Identity {
        cert_file: node.cert_file,
        key_file: node.key_file,
    };
    shake_hands(
        client(Some(&ours.file("ca.pem"))).unwrap(),
        identity.server().unwrap(),
    )
    .unwrap();
    let other = Authority::new();
    let refused = shake_hands(
        client(Some(&other.file("ca.pem"))).unwrap(),
        identity.server().unwrap(),
    );
    assert!(
        matches!(refused, Err(rustls::Error::InvalidCertificate(_))),
        "{refused:?}"
    );
}

#[test]
fn errors_name_the_file_and_the_reason() {
    let ours = Authority::new();
    let good = ours.node("a");
    let other = ours.node("b");
    let (missing, empty, broken) = (
        ours.file("missing.pem"),
        ours.file("empty.pem"),
        ours.file("broken.pem"),
    );
    fs::write(&empty, "").unwrap();
    fs::write(
        &broken,
        "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let error = |tls: &NodeTls| tls.load().unwrap_err().to_string();
    for (file, reason) in [
        (&missing, "cannot be read"),
        (&empty, "no certificate"),
        (&broken, "no certificate in PEM"),
    ] {
        let cases = [
            NodeTls {
                cert_file: file.clone(),
                ..good.clone()
            },
            NodeTls {
                ca_file: file.clone(),
                ..good.clone()
            },
        ];
        for tls in cases {
            let text = error(&tls);
            assert!(
                text.starts_with(&file.display().to_string()) && text.contains(reason),
                "{text}"
            );
        }
    }
    set_mode(&good.cert_file, 0o600);
    let text = error(&NodeTls {
        key_file: good.cert_file.clone(),
        ..good.clone()
    });
    assert!(text.contains("no private key in PEM"), "{text}");
    // A key of another certificate is found here, not at the first connection.
    let text = error(&NodeTls {
        key_file: other.key_file,
        ..good.clone()
    });
    assert!(text.starts_with(&good.cert_file.display().to_string()), "{text}");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let ours = Authority::new();
    let node = ours.node("node");
    for (mode, good) in [(0o640, true), (0o400, true), (0o644, false), (0o620, false)] {
        set_mode(&node.key_file, mode);
        let loaded = node.load();
        assert_eq!(loaded.is_ok(), good, "{mode:o}");
        if let Err(error) = loaded {
            let text = error.to_string();
            assert!(text.starts_with(&node.key_file.display().to_string()), "{text}");
            assert!(text.contains("chmod 600"), "{text}");
        }
    }
}

#[test]
fn a_certificate_that_others_would_refuse_is_refused_at_the_start() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let mut foreign = theirs.node("node");
    foreign.ca_file = ours.file("ca.pem");
    let expired = ours.sign("old", |params| {
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    });
    for (tls, reason) in [(foreign, "is not signed by the CA in"), (expired, "expired")] {
        let text = tls.load().unwrap_err().to_string();
        let file = tls.cert_file.display().to_string();
        assert!(text.starts_with(&file) && text.contains(reason), "{text}");
    }
    for usage in [
        rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        rcgen::ExtendedKeyUsagePurpose::ClientAuth,
    ] {
        let half = ours.sign("half", |params| params.extended_key_usages = vec![usage]);
        half.load().unwrap_err();
    }
}

#[test]
fn a_certificate_is_for_its_names_and_roles_only() {
    let ours = Authority::new();
    let check = |of: &str, name: &str, roles: &[CertificateRole]| {
        let expected = Expected {
            names: vec![name.to_owned()],
            roles: roles.to_vec(),
        };
        NodeIdentity::load(ours.node(of), expected).map(|_| ())
    };
    check("node-1", "Node-1", &[]).unwrap();
    check("10.0.0.7", "10.0.0.7", &[CertificateRole::Peer]).unwrap();
    for (name, other) in [("node-1", "node-2"), ("10.0.0.7", "10.0.0.8"), ("node-1", "-")] {
        let text = check(name, other, &[]).unwrap_err().to_string();
        assert!(text.contains("is not for this node"), "{text}");
    }
    let text = check("node-1", "node-1", &[CertificateRole::Seed])
        .unwrap_err()
        .to_string();
    assert!(text.contains("darter://role/seed"), "{text}");
}
