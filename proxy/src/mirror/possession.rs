//! Does a registry really have the content that it gives a right to?
//!
//! The store knows contents by digest alone. A registry that says yes to any digest could so open what another
//! registry gave in confidence. Before bytes of one registry are served by the right of another, that other one has
//! to show some of them: a part at a place that it cannot foresee. Once it has, it counts as a source of the content.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use darter_origin::OriginError;
use darter_types::{ByteRange, OriginLocator};
use futures_util::StreamExt as _;

use crate::access::Permit;
use crate::pull::PullError;

use super::{Ask, KnownContent, Mirror, Reply, refuse};

/// How much a registry has to show, in bytes; shorter contents are shown whole.
const SHOWN_BYTES: u64 = 64 * 1024;

impl Mirror {
    /// Makes sure that a registry's right opens nothing but what that registry has.
    pub(super) async fn vouch(
        &self,
        ask: &Ask,
        content: &OriginLocator,
        permit: &Permit,
        held: Option<&KnownContent>,
    ) -> Result<(), Box<Reply>> {
        match held.filter(|held| self.must_show(ask, content, held)) {
            Some(held) => self.prove_possession(ask, content, permit, held).await,
            None => Ok(()),
        }
    }

    /// Lets the registry that gave this permit show that it has the content which another registry gave.
    async fn prove_possession(
        &self,
        ask: &Ask,
        content: &OriginLocator,
        permit: &Permit,
        held: &KnownContent,
    ) -> Result<(), Box<Reply>> {
        let range = self.range_to_show(content, held.length);
        let shown = self
            .inner
            .upstream
            .sample(content.clone(), range, permit.credentials.clone());
        let patience = self.inner.config.slow_origin_deadline.as_duration();
        let failed = |problem: &Arc<OriginError>| refuse(ask.origin_error(problem));
        let shown = self.in_time(ask, &content.registry, patience, shown).await;
        let shown = shown.map_err(|problem| failed(&problem))?;
        let here = self.read_held(content, permit, held, range).await;
        let here = here.map_err(|problem| refuse(ask.pull_error(&problem)))?;
        if shown != here {
            tracing::warn!(registry = %content.registry, digest = %content.digest, "registry does not have what it names");
            return Err(refuse(ask.pull_error(&PullError::WrongContent)));
        }
        if ask.address.is_none() {
            self.inner.memory.remember_source(content);
        }
        Ok(())
    }

    /// The same place each time for one registry and content, so that asking again is no second chance.
    fn range_to_show(&self, content: &OriginLocator, length: u64) -> ByteRange {
        let last = length.saturating_sub(SHOWN_BYTES);
        let place = format!("{} {}", content.registry, content.digest);
        let start = self.inner.access.secret_number(place.as_bytes()) % last.saturating_add(1).max(1);
        ByteRange::new(start, start.saturating_add(SHOWN_BYTES).min(length))
    }

    async fn read_held(
        &self,
        content: &OriginLocator,
        permit: &Permit,
        held: &KnownContent,
        range: ByteRange,
    ) -> Result<Bytes, PullError> {
        let open = self
            .inner
            .contents
            .open(self.pull_request(content, permit, Some(held.length), true))?;
        let mut stream = open.read(range);
        let mut bytes = BytesMut::new();
        while let Some(part) = stream.next().await {
            bytes.extend_from_slice(&part?);
        }
        Ok(bytes.freeze())
    }
}
