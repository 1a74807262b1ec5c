//! Listening to what a parent has.

use darter_engine::{Event, ParentFailure};
use darter_types::{HostId, RegistryName, TaskId};
use http::StatusCode;
use http::header::HeaderName;
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::news::{Item, News, NewsReader};
use super::{INLINE_BYTES_MAX, INLINE_HEADER, Peers, Remote};

/// A parent to listen to.
#[derive(Debug)]
pub(crate) struct PeerWatch {
    pub(crate) task: TaskId,
    pub(crate) host: HostId,
    pub(crate) address: String,
    pub(crate) registry: RegistryName,
    pub(crate) events: mpsc::Sender<Event>,
}

impl PeerWatch {
    fn remote(&self) -> Remote<'_> {
        Remote {
            host: &self.host,
            address: &self.address,
            registry: &self.registry,
        }
    }
}

impl Peers {
    /// Reports what the parent has until it ends its news, and how it failed if it does.
    pub(crate) async fn watch(&self, watch: PeerWatch) {
        if let Err(failure) = self.listen(&watch).await {
            let _ = watch.events.send(Event::ParentLost(watch.host, failure)).await;
        }
    }

    async fn listen(&self, watch: &PeerWatch) -> Result<(), ParentFailure> {
        let path = format!("/v1/tasks/{}/have", watch.task);
        let inline = INLINE_BYTES_MAX.to_string();
        let name = HeaderName::from_static(INLINE_HEADER);
        let (connection, answer) = self.ask(watch.remote(), &path, name, &inline).await?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(ParentFailure::Missing),
            _ => return Err(ParentFailure::Busy),
        }
        let _ = watch.events.send(Event::ParentAlive(watch.host.clone())).await;
        let (mut body, mut reader, mut ended) = (answer.into_body(), NewsReader::default(), false);
        while let Some(frame) = self.next_frame(&mut body).await? {
            let mut items = Vec::new();
            if let Err(error) = reader.push(&frame, &mut items) {
                tracing::warn!(peer = %watch.host, %error, "a peer talks nonsense");
                return Err(ParentFailure::WrongBytes);
            }
            for item in items {
                ended |= item == Item::News(News::End);
                self.report(watch, item).await;
            }
        }
        if ended {
            self.give_back(watch.remote(), connection);
            return Ok(());
        }
        Err(ParentFailure::Unreachable)
    }

    /// The next bytes of a body; an error if they take too long or the connection breaks.
    pub(super) async fn next_frame(
        &self,
        body: &mut hyper::body::Incoming,
    ) -> Result<Option<bytes::Bytes>, ParentFailure> {
        match timeout(self.silence_max(), body.frame()).await {
            Ok(Some(Ok(frame))) => Ok(Some(frame.into_data().unwrap_or_default())),
            Ok(Some(Err(_))) => Err(ParentFailure::Unreachable),
            Ok(None) => Ok(None),
            Err(_) => Err(ParentFailure::Silent),
        }
    }

    async fn report(&self, watch: &PeerWatch, item: Item) {
        let event = match item {
            Item::News(News::Have(runs)) => Event::ParentHas(watch.host.clone(), runs),
            Item::Content(content) => return self.keep_inline(watch.remote(), watch.task, content),
            // The length is believed from the origin, a manifest or the scheduler only.
            Item::News(_) => return,
        };
        let _ = watch.events.send(event).await;
    }
}
