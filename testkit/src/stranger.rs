//! Connections of whoever should not be let in: in the clear, without a certificate, with one that is worth nothing.
//!
//! A stranger says what it has to say and hears all that comes back. What must hold: nothing of the code under test is used,
//! so that a stranger can show what no honest node would.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use crate::authority::NodeFiles;

/// Who is not heard hears nothing for longer than this.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who comes.
#[derive(Clone, Copy, Debug)]
pub enum Stranger<'a> {
    /// Without TLS.
    Plain,
    /// With TLS, believing this authority, and with nothing to show.
    Anonymous {
        /// The authority's certificate.
        ca_file: &'a Path,
    },
    /// With TLS, believing this authority, and showing this certificate, whatever it is worth.
    Showing {
        /// The authority's certificate.
        ca_file: &'a Path,
        /// What is shown.
        files: &'a NodeFiles,
    },
}

/// Says `words` at `address`, which is known as `name` and speaks `alpn`, and gives all that came back until the other side
/// was silent or gone. Nobody answers who refuses, so an error is as good as nothing.
///
/// # Panics
/// The files of the test are none.
pub async fn knock(
    who: Stranger<'_>,
    (address, name): (SocketAddr, &str),
    alpn: &[u8],
    words: &[u8],
) -> Vec<u8> {
    let talk = async {
        let stream = TcpStream::connect(address).await?;
        let Some(config) = config(who, alpn) else {
            return talk(stream, words).await;
        };
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        talk(connector.connect(name, stream).await?, words).await
    };
    talk.await.unwrap_or_default()
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, words: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(words).await?;
    stream.flush().await?;
    let mut heard = Vec::new();
    // What came before an error counts.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut heard)).await;
    Ok(heard)
}

fn config(who: Stranger<'_>, alpn: &[u8]) -> Option<ClientConfig> {
    let (ca_file, files) = match who {
        Stranger::Plain => return None,
        Stranger::Anonymous { ca_file } => (ca_file, None),
        Stranger::Showing { ca_file, files } => (ca_file, Some(files)),
    };
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(ca_file).expect("a test's authority");
    roots.add(ca).expect("a test's authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(roots);
    let mut config = match files {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let shown = CertificateDer::from_pem_file(&files.cert_file).expect("a test's certificate");
            let key = PrivateKeyDer::from_pem_file(&files.key_file).expect("a test's key");
            builder
                .with_client_auth_cert(vec![shown], key)
                .expect("certificate and key belong together")
        }
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    Some(config)
}
