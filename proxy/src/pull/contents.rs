//! Pulls as the mirror sees them.

use std::sync::Arc;

use darter_store::ContentFacts;
use darter_types::{ByteRange, TaskId};
use futures_util::future::BoxFuture;
use futures_util::stream;

use super::{Pull, PullError, PullRequest, Pulls};
use crate::mirror::{ContentStream, Contents, KnownContent, OpenContent};

impl From<ContentFacts> for KnownContent {
    fn from(facts: ContentFacts) -> Self {
        Self {
            length: facts.layout.length(),
            media_type: facts.media_type,
            origin: facts.origin,
        }
    }
}

impl Contents for Pulls {
    fn open(&self, request: PullRequest) -> Result<Arc<dyn OpenContent>, PullError> {
        Ok(Arc::new(Self::open(self, request)?))
    }

    fn holds(&self, task: TaskId) -> Option<KnownContent> {
        Self::holds(self, task).map(KnownContent::from)
    }
}

impl OpenContent for Pull {
    fn known(&self) -> BoxFuture<'_, Result<KnownContent, PullError>> {
        Box::pin(async { self.facts().await.map(KnownContent::from) })
    }

    fn awaits_origin(&self) -> bool {
        self.shared.is_hopeful()
    }

    fn read(&self, range: ByteRange) -> ContentStream {
        let reader = self.reader(range);
        Box::pin(stream::unfold(reader, |mut reader| async move {
            let next = reader.next().await?;
            Some((next, reader))
        }))
    }
}
