//! The right by which a body is being sent: asked for again before it lapses, for as long as the body is open.
//!
//! A slow client reads for hours what it was allowed to read once. What must hold: the last byte leaves at most a grant's
//! life after the registry began to say no, and the same if it says nothing. The work is done by whoever polls, within the
//! client's own connection; there is no task behind it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use darter_origin::{Credentials, OriginError};
use darter_types::OriginLocator;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::grants::Grant;
use super::{Access, Permit, Proof, Subject, Verdict, verdict};

/// How long before a right lapses the registry is asked again: it may be slow to answer.
const AHEAD: Duration = Duration::from_secs(20);
/// Pause before it is asked once more that could not answer.
const PAUSE: Duration = Duration::from_secs(2);

/// A right that lasts until [`Standing::poll_over`] says otherwise.
pub(crate) struct Standing {
    watch: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Standing")
    }
}

impl Access {
    /// The right to read a content, to be watched while it is read; `None` where anybody may, and for an address of the
    /// caller's own: its host gives one answer by it, whole, though what signs it runs out meanwhile.
    pub(crate) fn standing(&self, content: &OriginLocator, permit: &Permit) -> Option<Arc<Standing>> {
        if permit.public || matches!(permit.credentials, Credentials::Address(_)) {
            return None;
        }
        let watch = Watch {
            access: self.clone(),
            content: content.clone(),
            permit: permit.clone(),
        };
        Some(Arc::new(Standing {
            watch: Mutex::new(Some(Box::pin(watch.until_over()))),
        }))
    }
}

impl Standing {
    /// Ready once the right is over. To be polled by the task that sends the body, however long the client takes nothing.
    pub(crate) fn poll_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let over = watch
            .as_mut()
            .is_none_or(|watch| watch.as_mut().poll(cx).is_ready());
        if over {
            *watch = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// What is asked again and again.
struct Watch {
    access: Access,
    content: OriginLocator,
    permit: Permit,
}

impl Watch {
    async fn until_over(mut self) {
        let mut last = Instant::now();
        loop {
            // Without an answer it was refused for what named the content; it may be readable by itself.
            if let Some(until) = self.permit.grant.until() {
                last = until;
                let half = until.saturating_duration_since(Instant::now()) / 2;
                sleep_until(until - AHEAD.min(half)).await;
                if self.permit.grant.until() > Some(until) {
                    continue;
                }
            }
            match self.ask(last).await {
                Ok(grant) => self.permit.grant = grant,
                Err(problem) => {
                    let (registry, repository) = (&self.content.registry, &self.content.repository);
                    let reason =
                        problem.map_or_else(|| "it did not answer".to_owned(), |problem| problem.to_string());
                    tracing::info!(%registry, %repository, digest = %self.content.digest, reason, "a body ends: its registry does not say yes any more");
                    return;
                }
            }
        }
    }

    /// The registry's answer by `last`; without one, why not, where that is known.
    async fn ask(&self, last: Instant) -> Result<Arc<Grant>, Option<Arc<OriginError>>> {
        let itself = self.permit.is_about(&self.content);
        let proof = if itself { Proof::Itself } else { Proof::Named };
        let subject = Subject::Content(self.content.clone());
        loop {
            let asked = self.access.ask(&subject, self.permit.asked_for(), proof);
            match timeout_at(last, asked).await {
                Ok(Ok(permit)) => return Ok(permit.grant),
                Ok(Err(problem)) if verdict(&problem) == Verdict::CannotTell => {
                    if timeout_at(last, sleep(PAUSE)).await.is_err() {
                        return Err(Some(problem));
                    }
                }
                Ok(Err(problem)) => return Err(Some(problem)),
                Err(_) => return Err(None),
            }
        }
    }
}
