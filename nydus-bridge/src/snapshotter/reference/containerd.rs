//! containerd as it is asked: which images a namespace has, and what a content is.

use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tower::service_fn;

use crate::snapshotter::proto::services::content::v1::ReadContentRequest;
use crate::snapshotter::proto::services::content::v1::content_client::ContentClient;
use crate::snapshotter::proto::services::images::v1::ListImagesRequest;
use crate::snapshotter::proto::services::images::v1::images_client::ImagesClient;

/// Where containerd reads the namespace of a request.
const NAMESPACE: &str = "containerd-namespace";
/// Longest answer: thousands of images.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Longest manifest or configuration that is read.
const CONTENT_BYTES_MAX: usize = 8 << 20;

/// An image in a namespace.
#[derive(Clone, Debug)]
pub(super) struct Described {
    pub(super) name: String,
    /// The digest of its manifest or index.
    pub(super) target: String,
}

/// A containerd that is connected to when it is needed.
#[derive(Debug)]
pub(super) struct Containerd {
    channel: Channel,
}

impl Containerd {
    pub(super) fn new(socket: PathBuf) -> Self {
        // The address is not used: there is one socket.
        let endpoint = Endpoint::from_static("http://containerd");
        let connect = service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        Self {
            channel: endpoint.connect_with_connector_lazy(connect),
        }
    }

    pub(super) async fn images(&self, namespace: &str) -> Result<Vec<Described>, String> {
        let client = ImagesClient::new(self.channel.clone());
        let mut client = client.max_decoding_message_size(ANSWER_BYTES_MAX);
        let answer = client
            .list(within(namespace, ListImagesRequest::default())?)
            .await;
        let images = answer.map_err(|status| words(&status))?.into_inner().images;
        Ok(images
            .into_iter()
            .filter_map(|image| Some(Described::new(image.name, image.target?.digest)))
            .collect())
    }

    /// A content; `None` if it is not there, or longer than any manifest.
    pub(super) async fn read(&self, namespace: &str, digest: &str) -> Result<Option<Vec<u8>>, String> {
        let request = ReadContentRequest {
            digest: digest.to_owned(),
            ..ReadContentRequest::default()
        };
        let mut client = ContentClient::new(self.channel.clone());
        let mut answer = match client.read(within(namespace, request)?).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return missing(&status),
        };
        let mut bytes = Vec::new();
        loop {
            match answer.message().await {
                Ok(Some(part)) if bytes.len() + part.data.len() <= CONTENT_BYTES_MAX => {
                    bytes.extend(part.data)
                }
                Ok(Some(_)) => return Ok(None),
                Ok(None) => return Ok(Some(bytes)),
                Err(status) => return missing(&status),
            }
        }
    }
}

fn missing(status: &tonic::Status) -> Result<Option<Vec<u8>>, String> {
    match status.code() {
        Code::NotFound | Code::InvalidArgument => Ok(None),
        _ => Err(words(status)),
    }
}

fn within<T>(namespace: &str, request: T) -> Result<Request<T>, String> {
    let value: MetadataValue<Ascii> = namespace
        .parse()
        .map_err(|_| format!("namespace {namespace:?}"))?;
    let mut request = Request::new(request);
    request.metadata_mut().insert(NAMESPACE, value);
    Ok(request)
}

fn words(status: &tonic::Status) -> String {
    let source = std::error::Error::source(status).map(|source| format!(": {source}"));
    format!("{}{}", status.message(), source.unwrap_or_default())
}
