//! Requests, and what becomes of their bytes: unpacked, proved, kept, told to all who wait.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_types::ByteRange;
use tokio::time::timeout;

use super::{BACKGROUND_KIB_MAX, Class, Engine, Fetch, IN_FLIGHT_KIB_MAX};
use crate::fs::chunk::{Form, Placed, Unit};
use crate::fs::decode;
use crate::fs::error::FsError;
use crate::fs::flights::Waiting;
use crate::fs::merge::Request;
use crate::fs::stats::add;

/// How long a reader waits for a request of which the mirror was told that it can wait, before there is one of his own. The
/// mirror fetches the bytes once for both.
const OVERTAKES_AFTER: Duration = Duration::from_millis(100);

impl Engine {
    /// One request, and what comes of it for each of its units.
    pub(in crate::fs) async fn perform(self: Arc<Self>, blob: u32, request: Request<Fetch>, class: Class) {
        let kib = u32::try_from(request.range.len() / 1024).unwrap_or(u32::MAX);
        let (room, most) = match class {
            Class::Foreground => (&self.in_flight, IN_FLIGHT_KIB_MAX),
            Class::Background => (&self.in_background, BACKGROUND_KIB_MAX),
        };
        let _in_flight = room.acquire_many(kib.min(most)).await;
        let answer = self.request(blob, request.range, class).await;
        for (range, fetch) in request.parts {
            let outcome = match &answer {
                Err(error) => Err(error.clone()),
                Ok(bytes) => {
                    let start = range.start - request.range.start;
                    let part = ByteRange::new(start, start + range.len());
                    let part = bytes.slice(part.indices());
                    self.unit(fetch.placed, part, fetch.ahead).await
                }
            };
            fetch.claim.finish(outcome);
        }
    }

    async fn request(&self, blob: u32, range: ByteRange, class: Class) -> Result<Bytes, FsError> {
        let blob = self.blob(blob)?;
        let read = match class {
            Class::Foreground => {
                let _permit = self.permits.acquire().await;
                self.source.read(&blob.digest, range).await
            }
            Class::Background => self.source.read_in_background(&blob.digest, range).await,
        };
        let count = match read {
            Ok(_) => &self.counts.requests,
            Err(_) => &self.counts.failed,
        };
        add(count, 1);
        let bytes = read?;
        add(&self.counts.fetched, bytes.len() as u64);
        Ok(bytes)
    }

    /// A unit from its packed bytes. They are asked for once more when they are wrong.
    async fn unit(self: &Arc<Self>, placed: Placed, packed: Bytes, ahead: bool) -> Result<Bytes, FsError> {
        match self.unpacked(placed, packed, ahead).await {
            Err(FsError::WrongBytes { blob, index }) => {
                tracing::warn!(%blob, index, "a chunk has wrong bytes and is asked for again");
                let Unit { blob, packed, .. } = placed.unit;
                let packed = self.request(blob, packed, Class::Foreground).await?;
                self.unpacked(placed, packed, ahead).await
            }
            other => other,
        }
    }

    async fn unpacked(
        self: &Arc<Self>,
        placed: Placed,
        packed: Bytes,
        ahead: bool,
    ) -> Result<Bytes, FsError> {
        let engine = Arc::clone(self);
        self.work("unpacking of a chunk", move || {
            engine.unpack(&placed, packed, ahead)
        })
        .await?
    }

    /// Takes its time: not for threads of the runtime.
    fn unpack(&self, placed: &Placed, packed: Bytes, ahead: bool) -> Result<Bytes, FsError> {
        let Unit { blob, form, .. } = placed.unit;
        let context = match form {
            Form::Zran(_) => Some(self.contexts.load(blob, &self.runtime)?),
            Form::Stored | Form::Compressed => None,
        };
        let known = self.blob(blob)?;
        let unit = decode::unpack(&placed.unit, known, context.as_deref(), packed);
        let proved = unit.ok().filter(|unit| self.prove(placed, unit, ahead).is_some());
        let unit = proved.ok_or_else(|| self.wrong(placed))?;
        if !placed.is_single() {
            self.units.put(placed.key(), unit.clone());
        }
        Ok(unit)
    }

    /// The chunk in its unit, proved, and kept from here on.
    pub(super) fn prove(&self, placed: &Placed, unit: &Bytes, ahead: bool) -> Option<Bytes> {
        let chunk = decode::prove(placed, self.blob(placed.chunk.blob).ok()?, unit)?;
        self.cache.keep(&placed.chunk, &chunk, ahead);
        Some(chunk)
    }

    /// Wrong bytes. What led to them may be the table of the blob, which nothing proves.
    fn wrong(&self, placed: &Placed) -> FsError {
        let chunk = placed.chunk;
        add(&self.counts.wrong, 1);
        if !placed.is_single() {
            self.units.forget(placed.key());
            self.contexts.forget(chunk.blob);
        }
        match self.blob(chunk.blob) {
            Ok(blob) => FsError::WrongBytes {
                blob: blob.digest,
                index: chunk.index,
            },
            Err(error) => error,
        }
    }

    /// A unit that somebody fetches; if he can wait, not for long.
    async fn awaited(self: &Arc<Self>, placed: &Placed, waiting: Waiting) -> Result<Bytes, FsError> {
        if waiting.is_urgent() {
            return waiting.outcome().await;
        }
        if let Ok(Ok(unit)) = timeout(OVERTAKES_AFTER, waiting.outcome()).await {
            return Ok(unit);
        }
        let (waiting, claim) = self.flights.overtake(placed.key());
        if let Some(claim) = claim {
            match self.kept_unit(placed) {
                Some(unit) => claim.finish(Ok(unit)),
                None => self.launch(
                    vec![Fetch {
                        placed: *placed,
                        claim,
                        ahead: false,
                    }],
                    Vec::new(),
                ),
            }
        }
        waiting.outcome().await
    }

    /// A chunk of a unit that somebody fetches. If it shares the unit with the chunk that the fetch was for, it is proved here.
    pub(super) async fn chunk(self: &Arc<Self>, placed: Placed, waiting: Waiting) -> Result<Bytes, FsError> {
        let unit = self.awaited(&placed, waiting).await?;
        if placed.is_single() {
            return Ok(unit);
        }
        let engine = Arc::clone(self);
        let prove = move || {
            engine
                .prove(&placed, &unit, false)
                .ok_or_else(|| engine.wrong(&placed))
        };
        self.work("proof of a chunk", prove).await?
    }
}
