//! Listening to what a parent has.

use std::sync::Weak;

use darter_engine::{Event, ParentFailure};
use darter_origin::Origins;
use darter_types::{HostId, TaskId};
use http::StatusCode;
use http::header::HeaderName;
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::news::{Item, News, NewsReader};
use super::{INLINE_BYTES_MAX, INLINE_HEADER, ON_DEMAND_QUERY, Peers, Remote};
use crate::pull::{Right, Shared};

/// A parent to listen to.
#[derive(Debug)]
pub(crate) struct PeerWatch {
    pub(crate) task: TaskId,
    pub(crate) host: HostId,
    pub(crate) address: String,
    /// The pull that it is for; whoever listens does not keep it.
    pub(crate) shared: Weak<Shared>,
    pub(crate) origins: Origins,
    pub(crate) events: mpsc::Sender<Event>,
    /// Whether nothing but single pieces is wanted.
    pub(crate) on_demand: bool,
}

impl PeerWatch {
    fn remote<'a>(&'a self, right: &'a Right) -> Remote<'a> {
        Remote {
            host: &self.host,
            address: &self.address,
            right,
        }
    }
}

/// How news end that do not fail.
enum Ended {
    /// All was told.
    Whole,
    /// The parent tells more to those whose registry was asked about this very content.
    Elsewhere,
}

impl Peers {
    /// Reports what the parent has until it ends its news, and how it failed if it does.
    pub(crate) async fn watch(&self, watch: PeerWatch) {
        if let Err(failure) = self.follow(&watch).await {
            let _ = watch.events.send(Event::ParentLost(watch.host, failure)).await;
        }
    }

    async fn follow(&self, watch: &PeerWatch) -> Result<(), ParentFailure> {
        while let Some(right) = watch.shared.upgrade().and_then(|shared| shared.right()) {
            match self.listen(watch, &right).await? {
                Ended::Whole => break,
                // Nobody's fault: the parent is right, and so may be the registry.
                Ended::Elsewhere if right.asked => return Err(ParentFailure::Busy),
                Ended::Elsewhere => {
                    let Some(shared) = watch.shared.upgrade() else {
                        break;
                    };
                    if !shared.ask_itself(&watch.origins).await {
                        return Err(ParentFailure::Busy);
                    }
                }
            }
        }
        Ok(())
    }

    async fn listen(&self, watch: &PeerWatch, right: &Right) -> Result<Ended, ParentFailure> {
        let query = if watch.on_demand { ON_DEMAND_QUERY } else { "" };
        let path = format!("/v1/tasks/{}/have{query}", watch.task);
        let inline = INLINE_BYTES_MAX.to_string();
        let name = HeaderName::from_static(INLINE_HEADER);
        let (connection, answer) = self.ask(watch.remote(right), &path, name, &inline).await?;
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
                if item == Item::News(News::Elsewhere) {
                    return Ok(Ended::Elsewhere);
                }
                ended |= item == Item::News(News::End);
                self.report(watch, right, item).await;
            }
        }
        if ended {
            self.give_back(watch.remote(right), connection);
            return Ok(Ended::Whole);
        }
        // Its pull is over, though it has not all: the next question begins another one there.
        Err(ParentFailure::Busy)
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

    async fn report(&self, watch: &PeerWatch, right: &Right, item: Item) {
        let event = match item {
            Item::News(News::Have(runs)) => Event::ParentHas(watch.host.clone(), runs),
            Item::Content(content) => return self.keep_inline(watch.remote(right), watch.task, content),
            // The length is believed from the origin, a manifest or the scheduler only.
            Item::News(_) => return,
        };
        let _ = watch.events.send(event).await;
    }
}
