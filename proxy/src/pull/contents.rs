//! Pulls as the mirror sees them.

use std::sync::{Arc, OnceLock};

use darter_store::ContentFacts;
use darter_types::{ByteRange, OriginLocator, TaskId};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;

use super::{Env, Pull, PullError, PullRequest, Pulls, Reader, Shared, past};
use crate::mirror::{ContentStream, Contents, KnownContent, OpenContent, Source};

impl From<ContentFacts> for KnownContent {
    fn from(facts: ContentFacts) -> Self {
        Self {
            length: facts.layout.length(),
            media_type: facts.media_type,
            origin: facts.origin,
        }
    }
}

impl From<ContentFacts> for Source {
    fn from(facts: ContentFacts) -> Self {
        Self {
            origin: facts.origin,
            public: facts.public,
        }
    }
}

impl Contents for Pulls {
    fn open(&self, request: PullRequest) -> Result<Arc<dyn OpenContent>, PullError> {
        let pull = Self::open(self, request.clone())?;
        Ok(Arc::new(Content {
            pull,
            env: Arc::clone(&self.env),
            request,
            length: OnceLock::new(),
        }))
    }

    fn holds(&self, task: TaskId) -> Option<KnownContent> {
        Self::holds(self, task).map(KnownContent::from)
    }

    fn source(&self, task: TaskId) -> Option<Source> {
        Self::source(self, task)
    }

    fn quiet(&self) -> BoxFuture<'_, ()> {
        Box::pin(Self::quiet(self))
    }
}

impl Content {
    /// A registry's refusal is the answer to those who asked at that place, and says nothing to others.
    fn told(&self, error: PullError) -> PullError {
        told(&self.pull.shared, &self.request, error)
    }
}

fn told(shared: &Shared, request: &PullRequest, error: PullError) -> PullError {
    let beside = |origin: &OriginLocator| origin.is_beside(&request.locator);
    let own = shared.source().origin.as_ref().is_none_or(beside);
    match error {
        PullError::Origin(_) if !own => PullError::Elsewhere,
        error => error,
    }
}

/// A content that is read from the store, and past it where the store fails.
#[derive(Debug)]
struct Content {
    pull: Pull,
    env: Arc<Env>,
    request: PullRequest,
    /// What [`past::known`] said of its length.
    length: OnceLock<u64>,
}

impl OpenContent for Content {
    fn known(&self) -> BoxFuture<'_, Result<KnownContent, PullError>> {
        Box::pin(async {
            match self.pull.facts().await {
                Err(PullError::Store(_)) => {
                    let known = past::known(&self.env, &self.request).await?;
                    self.length.get_or_init(|| known.length);
                    Ok(known)
                }
                known => known.map(KnownContent::from).map_err(|error| self.told(error)),
            }
        })
    }

    fn awaits_origin(&self, since: Instant) -> bool {
        let registry = &self.request.locator.registry;
        self.pull.shared.is_hopeful() || self.env.origins.is_answering(registry, since)
    }

    fn read(&self, range: ByteRange) -> ContentStream {
        let start = Way::Store(self.pull.reader(range), Arc::clone(&self.pull.shared));
        let env = Arc::clone(&self.env);
        let request = PullRequest {
            length: self.request.length.or_else(|| self.length.get().copied()),
            ..self.request.clone()
        };
        Box::pin(stream::unfold(start, move |mut way| {
            let (env, request) = (Arc::clone(&env), request.clone());
            async move {
                loop {
                    match &mut way {
                        Way::Past(stream) => return stream.next().await.map(|next| (next, way)),
                        Way::Store(reader, shared) => match reader.next().await? {
                            Err(PullError::Store(problem)) => {
                                tracing::warn!(task = %request.task(), problem, "read past the store");
                                if shared.is_complete() {
                                    env.drop_unreadable(request.task());
                                }
                                let rest = ByteRange::new(range.end - reader.remaining(), range.end);
                                env.metrics.past_store();
                                let from = shared.frontier(rest.start);
                                way = Way::Past(past::read(
                                    Arc::clone(&env),
                                    request.clone(),
                                    from,
                                    range,
                                    rest,
                                ));
                            }
                            next => {
                                let next = next.map_err(|error| told(shared, &request, error));
                                return Some((next, way));
                            }
                        },
                    }
                }
            }
        }))
    }
}

/// Where the next bytes come from.
enum Way {
    Store(Reader, Arc<Shared>),
    Past(ContentStream),
}
