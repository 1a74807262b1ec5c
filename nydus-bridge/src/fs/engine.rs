//! Gets chunks: from the cache, from a fetch that runs already, or by new requests.
//!
//! A read asks for the chunks that it needs ([`Engine::chunks`]). Those are placed in units; each unit is fetched once at a
//! time; units that are near each other, and what follows them in the blob, go in one request. A fetch belongs to nobody:
//! it goes on when its reader has left.
//!
//! What must hold: bytes whose digest does not fit are asked for once more and then are an error; requests, their lengths
//! and the bytes that wait are bounded ([`Limits`]).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use darter_service::supervise::Tasks;
use darter_types::ByteRange;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::cache::Cache;
use super::chunk::{Blob, Chunk, Form, Packing, Placed, Unit};
use super::context::Contexts;
use super::decode;
use super::error::FsError;
use super::flights::{Claim, Flights, Waiting};
use super::merge::{Bounds, Request, merge};
use super::tree::Tree;
use super::units::Units;
use crate::blob::BlobSource;

/// Bounds of what a mount fetches and keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of unpacked chunks that are kept on disk.
    pub cache_bytes_max: u64,
    /// Requests for chunks that are out at once.
    pub requests_max: usize,
    /// Bytes of one request of several chunks.
    pub request_bytes_max: u64,
    /// Bytes between two chunks that are rather read over than left out.
    pub gap_bytes_max: u64,
    /// A request for less than this takes what follows in the blob along. 0 turns it off.
    pub ahead_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cache_bytes_max: 4 << 30,
            requests_max: 16,
            request_bytes_max: 4 << 20,
            gap_bytes_max: 128 << 10,
            ahead_bytes: 1 << 20,
        }
    }
}

/// Gets the chunks of one image.
#[derive(Debug)]
pub(super) struct Engine {
    source: Arc<dyn BlobSource>,
    blobs: Vec<Blob>,
    contexts: Contexts,
    cache: Cache,
    units: Units,
    flights: Flights,
    permits: Semaphore,
    limits: Limits,
    tasks: Tasks,
    runtime: Handle,
}

/// A unit to be fetched: the duty, and one of its chunks.
#[derive(Debug)]
struct Fetch {
    placed: Placed,
    claim: Claim,
}

impl Engine {
    /// The engine of the image `tree`, whose files are in `folder`. Must be called within a runtime.
    pub(super) fn new(
        tree: &Tree,
        source: Arc<dyn BlobSource>,
        folder: &Path,
        limits: Limits,
        tasks: Tasks,
    ) -> io::Result<Self> {
        let blobs = tree.blobs().to_vec();
        Ok(Self {
            contexts: Contexts::new(Arc::clone(&source), tree.infos().to_vec(), folder),
            cache: Cache::new(folder, blobs.len(), limits.cache_bytes_max)?,
            source,
            blobs,
            units: Units::default(),
            flights: Flights::default(),
            permits: Semaphore::new(limits.requests_max),
            limits,
            tasks,
            runtime: Handle::current(),
        })
    }

    /// Fills `buffer` with the bytes of a chunk from `skip` on, if they are on this machine.
    pub(super) fn read_kept(&self, chunk: &Chunk, skip: u64, buffer: &mut [u8]) -> bool {
        self.cache.read(chunk, skip, buffer)
    }

    /// How far behind the beginning of a chunk others are taken along.
    pub(super) fn ahead_bytes(&self) -> u64 {
        self.limits.ahead_bytes
    }

    fn blob(&self, blob: u32) -> Result<&Blob, FsError> {
        let found = usize::try_from(blob).ok().and_then(|index| self.blobs.get(index));
        found.ok_or_else(|| FsError::damaged(format!("there is no blob {blob}")))
    }

    /// The bytes of chunks, in the same order. Those `ahead` are fetched along with them and kept, if it comes to a request.
    pub(super) async fn chunks(
        self: &Arc<Self>,
        wanted: Vec<Chunk>,
        ahead: Vec<Chunk>,
    ) -> Result<Vec<Bytes>, FsError> {
        let mut waits = Vec::new();
        let mut fetches = Vec::new();
        for chunk in wanted {
            let placed = self.place(chunk).await?;
            let (waiting, claim) = self.flights.join(placed.key());
            waits.push((placed, waiting));
            let Some(claim) = claim else { continue };
            // Between a reader's look into the cache and its claim another one's fetch may have ended.
            match self.kept_unit(&placed) {
                Some(unit) => claim.finish(Ok(unit)),
                None => fetches.push(Fetch { placed, claim }),
            }
        }
        if !fetches.is_empty() {
            fetches.extend(ahead.into_iter().filter_map(|chunk| self.claim_ahead(chunk)));
            self.launch(fetches);
        }
        let mut chunks = Vec::new();
        for (placed, waiting) in waits {
            chunks.push(self.chunk(placed, waiting).await?);
        }
        Ok(chunks)
    }

    /// Where a chunk is. May need its blob's table, which is fetched on a thread that may block.
    async fn place(self: &Arc<Self>, chunk: Chunk) -> Result<Placed, FsError> {
        let packing = self.blob(chunk.blob)?.packing;
        if packing == Packing::Single {
            return Ok(Placed::single(chunk));
        }
        if let Some(context) = self.contexts.known(chunk.blob) {
            return context.place(chunk, packing);
        }
        let engine = Arc::clone(self);
        let load = move || {
            engine
                .contexts
                .load(chunk.blob, &engine.runtime)?
                .place(chunk, packing)
        };
        self.blocking("lookup of a chunk", load).await?
    }

    /// Runs work that takes its time, on a thread that may block.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, FsError> {
        let done = self.tasks.blocking(name, work).await;
        done.map_err(|error| FsError::local(name, &error))
    }

    /// A unit that is on this machine.
    fn kept_unit(&self, placed: &Placed) -> Option<Bytes> {
        if !placed.is_single() {
            return self.units.get(placed.key());
        }
        if !self.cache.has(&placed.chunk) {
            return None;
        }
        let mut bytes = vec![0; placed.unit.length as usize];
        self.cache
            .read(&placed.chunk, 0, &mut bytes)
            .then(|| bytes.into())
    }

    fn claim_ahead(&self, chunk: Chunk) -> Option<Fetch> {
        let placed = Placed::single(chunk);
        if self.cache.has(&chunk) {
            return None;
        }
        let (_, claim) = self.flights.join(placed.key());
        claim.map(|claim| Fetch { placed, claim })
    }

    /// Begins the requests for units.
    fn launch(self: &Arc<Self>, fetches: Vec<Fetch>) {
        let bounds = Bounds {
            gap_max: self.limits.gap_bytes_max,
            request_max: self.limits.request_bytes_max,
        };
        let mut by_blob: BTreeMap<u32, Vec<(ByteRange, Fetch)>> = BTreeMap::new();
        for fetch in fetches {
            let unit = fetch.placed.unit;
            by_blob.entry(unit.blob).or_default().push((unit.packed, fetch));
        }
        for (blob, fetches) in by_blob {
            for request in merge(fetches, bounds) {
                let engine = Arc::clone(self);
                let work = async move { engine.perform(blob, request).await };
                self.tasks.spawn("fetch of chunks", work);
            }
        }
    }

    /// One request, and what comes of it for each of its units.
    async fn perform(self: Arc<Self>, blob: u32, request: Request<Fetch>) {
        let answer = self.request(blob, request.range).await;
        for (range, fetch) in request.parts {
            let outcome = match &answer {
                Err(error) => Err(error.clone()),
                Ok(bytes) => {
                    let start = range.start - request.range.start;
                    let part = ByteRange::new(start, start + range.len());
                    self.unit(fetch.placed, bytes.slice(part.indices())).await
                }
            };
            fetch.claim.finish(outcome);
        }
    }

    async fn request(&self, blob: u32, range: ByteRange) -> Result<Bytes, FsError> {
        let _permit = self.permits.acquire().await;
        Ok(self.source.read(&self.blob(blob)?.digest, range).await?)
    }

    /// A unit from its packed bytes. They are asked for once more when they are wrong.
    async fn unit(self: &Arc<Self>, placed: Placed, packed: Bytes) -> Result<Bytes, FsError> {
        match self.unpacked(placed, packed).await {
            Err(FsError::WrongBytes { blob, index }) => {
                tracing::warn!(%blob, index, "a chunk has wrong bytes and is asked for again");
                let packed = self.request(placed.unit.blob, placed.unit.packed).await?;
                self.unpacked(placed, packed).await
            }
            other => other,
        }
    }

    async fn unpacked(self: &Arc<Self>, placed: Placed, packed: Bytes) -> Result<Bytes, FsError> {
        let engine = Arc::clone(self);
        self.blocking("unpacking of a chunk", move || engine.unpack(&placed, packed))
            .await?
    }

    /// Takes its time: not for threads of the runtime.
    fn unpack(&self, placed: &Placed, packed: Bytes) -> Result<Bytes, FsError> {
        let Unit { blob, form, .. } = placed.unit;
        let context = match form {
            Form::Zran(_) => Some(self.contexts.load(blob, &self.runtime)?),
            Form::Stored | Form::Compressed => None,
        };
        let known = self.blob(blob)?;
        let unit = decode::unpack(&placed.unit, known, context.as_deref(), packed);
        let proved = unit.ok().filter(|unit| self.prove(placed, unit).is_some());
        let unit = proved.ok_or_else(|| self.wrong(placed))?;
        if !placed.is_single() {
            self.units.put(placed.key(), unit.clone());
        }
        Ok(unit)
    }

    /// The chunk in its unit, proved, and kept from here on.
    fn prove(&self, placed: &Placed, unit: &Bytes) -> Option<Bytes> {
        let chunk = decode::prove(placed, self.blob(placed.chunk.blob).ok()?, unit)?;
        self.cache.keep(&placed.chunk, &chunk);
        Some(chunk)
    }

    /// Wrong bytes. What led to them may be the table of the blob, which nothing proves.
    fn wrong(&self, placed: &Placed) -> FsError {
        let chunk = placed.chunk;
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

    /// A chunk of a unit that somebody fetches. If it shares the unit with the chunk that the fetch was for, it is proved here.
    async fn chunk(self: &Arc<Self>, placed: Placed, waiting: Waiting) -> Result<Bytes, FsError> {
        let unit = waiting.outcome().await?;
        if placed.is_single() {
            return Ok(unit);
        }
        let engine = Arc::clone(self);
        let prove = move || engine.prove(&placed, &unit).ok_or_else(|| engine.wrong(&placed));
        self.blocking("proof of a chunk", prove).await?
    }
}
