//! A client of a role's admin port: one request, one short answer in plain text.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use darter_service::net::{Address, Network as _, Stream, TokioNetwork};
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// A port of this machine that does not answer within this is as good as closed.
const ANSWER: Duration = Duration::from_secs(5);
/// Longest answer that is read: the journal of pulls is a few MiB at most.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Asks the admin port at `address`; the answer's text, without the line's end.
pub(crate) fn ask(address: &Address, method: Method, path: &str, body: String) -> Result<String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?
        .block_on(request(address, method, path, body))
}

/// The same within a runtime, by GET.
pub(crate) async fn get(address: &Address, path: &str) -> Result<String> {
    request(address, Method::GET, path, String::new()).await
}

async fn request(address: &Address, method: Method, path: &str, body: String) -> Result<String> {
    timeout(ANSWER, exchange(address, method, path, body))
        .await
        .with_context(|| format!("no answer from {address} within {ANSWER:?}"))?
}

async fn exchange(address: &Address, method: Method, path: &str, body: String) -> Result<String> {
    let stream = connect(address).await.with_context(|| {
        format!("no admin port at {address}: does the role run? name its port (admin.listen) with --admin")
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "admin")
        .body(Full::new(Bytes::from(body)))?;
    let talk = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&body).trim_end().to_owned()))
    };
    let mut connection = std::pin::pin!(connection);
    let mut talk = std::pin::pin!(talk);
    let (status, said) = tokio::select! {
        biased;
        answer = &mut talk => answer?,
        // The connection may end before its last answer was looked at.
        _ = &mut connection => talk.await?,
    };
    if !status.is_success() {
        bail!("{address} answers {status}: {said}");
    }
    Ok(said)
}

async fn connect(address: &Address) -> std::io::Result<Stream> {
    match address {
        Address::Tcp(authority) => TokioNetwork.connect(authority).await,
        Address::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
    }
}
