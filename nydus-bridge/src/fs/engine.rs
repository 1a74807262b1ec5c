//! Gets chunks: from the cache, from a fetch that runs already, or by new requests.
//!
//! A read asks for the chunks that it needs ([`Engine::find`]). Those are placed in units; each unit is fetched once at a
//! time; units that are near each other, and what follows them in the blob, go in one request ([`Engine::launch`]). A fetch belongs to nobody:
//! it goes on when its reader has left.
//!
//! What must hold: bytes whose digest does not fit are asked for once more and then are an error; requests, their lengths
//! and the bytes that wait are bounded ([`Limits`]).

mod fetch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use darter_service::supervise::Tasks;
use darter_types::ByteRange;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use super::ahead::{Ahead, Window};
use super::cache::{Cache, CacheFolder, Found};
use super::chunk::{Blob, Chunk, Packing, Placed};
use super::context::{self, Contexts};
use super::decode;
use super::error::FsError;
use super::flights::{Claim, Flights, Waiting};
use super::limits::Limits;
use super::merge::{Bounds, merge};
use super::stats::{Counts, add};
use super::tree::Tree;
use super::units::Units;
use crate::blob::BlobSource;

/// Packed bytes that are fetched or unpacked for readers at once, in KiB.
const IN_FLIGHT_KIB_MAX: u32 = 12 * 1024;
/// The same of what nobody waits for. It may take long, and takes no room from readers.
const BACKGROUND_KIB_MAX: u32 = 8 * 1024;
/// Chunks that are unpacked or proved at once: each has a thread, and memory that the thread keeps.
const WORKS_MAX: usize = 4;
/// Bytes that may be fetched whatever the amplification is: the first reads say nothing.
const AMPLIFICATION_SLACK: u64 = 16 << 20;

/// Whether somebody waits for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A reader.
    Foreground,
    /// Nobody yet.
    Background,
}

/// Gets the chunks of one image.
#[derive(Debug)]
pub(super) struct Engine {
    source: Arc<dyn BlobSource>,
    blobs: Vec<Blob>,
    contexts: Contexts,
    cache: Arc<Cache>,
    units: Units,
    flights: Flights,
    permits: Semaphore,
    in_flight: Semaphore,
    in_background: Semaphore,
    works: Semaphore,
    ahead: Mutex<Ahead>,
    /// Readers that wait.
    waiting: watch::Sender<usize>,
    counts: Counts,
    limits: Limits,
    tasks: Tasks,
    runtime: Handle,
}

/// A unit to be fetched: the duty, and one of its chunks.
#[derive(Debug)]
pub(super) struct Fetch {
    placed: Placed,
    claim: Claim,
    /// Nobody wants it yet.
    ahead: bool,
}

/// A chunk that a reader wants.
#[derive(Debug)]
pub(super) enum Coming {
    /// It is here.
    Here(Bytes),
    /// Its unit is being fetched.
    Unit(Placed, Waiting),
}

/// A reader that waits, as long as this value lives.
#[derive(Debug)]
pub(super) struct Waits<'a>(&'a watch::Sender<usize>);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|readers| *readers -= 1);
    }
}

impl Engine {
    /// The engine of the image `tree`, whose chunks are kept in `folder`. Must be called within a runtime.
    pub(super) fn new(
        tree: &Tree,
        source: Arc<dyn BlobSource>,
        folder: &CacheFolder,
        limits: Limits,
        tasks: Tasks,
    ) -> Self {
        let blobs = tree.blobs().to_vec();
        context::sweep(folder.path());
        Self {
            contexts: Contexts::new(Arc::clone(&source), tree.infos().to_vec(), folder.path()),
            cache: folder.cache(),
            source,
            blobs,
            units: Units::default(),
            flights: Flights::default(),
            permits: Semaphore::new(limits.requests_max),
            in_flight: Semaphore::new(IN_FLIGHT_KIB_MAX as usize),
            in_background: Semaphore::new(BACKGROUND_KIB_MAX as usize),
            works: Semaphore::new(
                std::thread::available_parallelism()
                    .map_or(1, usize::from)
                    .min(WORKS_MAX),
            ),
            ahead: Mutex::new(Ahead::new(Window {
                first: limits.ahead_bytes,
                max: limits.ahead_bytes_max,
            })),
            waiting: watch::Sender::new(0),
            counts: Counts::default(),
            limits,
            tasks,
            runtime: Handle::current(),
        }
    }

    /// Fills `buffer` with the bytes of a chunk from `skip` on, if they are on this machine, and proved.
    pub(super) fn read_kept(&self, chunk: &Chunk, skip: u64, buffer: &mut [u8]) -> bool {
        let found = self.cache.read(chunk, skip, buffer);
        if found == Found::Ahead {
            add(&self.counts.wanted, chunk.packed.len());
        }
        found != Found::Nothing
    }

    /// The bounds.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What is counted.
    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How many readers wait.
    pub(super) fn waiting(&self) -> &watch::Sender<usize> {
        &self.waiting
    }

    /// The owner of what runs.
    pub(super) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Looks after the cache; to be done at times.
    pub(super) async fn tidy(&self) {
        let cache = Arc::clone(&self.cache);
        // It is done again.
        let _ = self.blocking("care of the cache", move || cache.tidy()).await;
    }

    /// Says that a reader waits.
    pub(super) fn wait(&self) -> Waits<'_> {
        self.waiting.send_modify(|readers| *readers += 1);
        Waits(&self.waiting)
    }

    /// How far behind the beginning of a chunk that is fetched others are taken along.
    fn ahead_bytes(&self, chunk: &Chunk) -> u64 {
        let stats = self.counts.now();
        let fetched = stats.fetched.saturating_sub(stats.background);
        let most = stats.wanted.saturating_mul(self.limits.amplification_max) / 100;
        if fetched > most.saturating_add(AMPLIFICATION_SLACK) {
            return 0;
        }
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        ahead.window(chunk.blob, chunk.packed.start, chunk.packed.end)
    }

    fn blob(&self, blob: u32) -> Result<&Blob, FsError> {
        let found = usize::try_from(blob).ok().and_then(|index| self.blobs.get(index));
        found.ok_or_else(|| FsError::damaged(format!("there is no blob {blob}")))
    }

    /// Finds chunks that a reader wants: those that are here, those that are being fetched, and what has to be fetched for
    /// the rest, which [`Self::launch`] does.
    pub(super) async fn find(
        self: &Arc<Self>,
        wanted: Vec<Chunk>,
    ) -> Result<(Vec<Coming>, Vec<Fetch>), FsError> {
        let mut found = Vec::new();
        for chunk in wanted {
            found.push(match self.recall(chunk).await {
                Some(bytes) => Ok(bytes),
                None => Err(self.place(chunk).await?),
            });
        }
        // Nothing is awaited from here on: who drops a claim fails others.
        let (mut coming, mut fetches) = (Vec::new(), Vec::new());
        for found in found {
            let placed = match found {
                Ok(bytes) => {
                    coming.push(Coming::Here(bytes));
                    continue;
                }
                Err(placed) => placed,
            };
            let (waiting, claim) = self.flights.join(placed.key(), true);
            coming.push(Coming::Unit(placed, waiting));
            let Some(claim) = claim else { continue };
            // Between a reader's look into the cache and its claim another one's fetch may have ended.
            match self.kept_unit(&placed) {
                Some(unit) => claim.finish(Ok(unit)),
                None => fetches.push(Fetch {
                    placed,
                    claim,
                    ahead: false,
                }),
            }
        }
        Ok((coming, fetches))
    }

    /// How many bytes behind the beginning of the last chunk of these fetches are worth to be taken along, and that chunk.
    pub(super) fn worth(&self, fetches: &[Fetch]) -> Option<(Chunk, u64)> {
        let chunk = fetches.last()?.placed.chunk;
        Some((chunk, self.ahead_bytes(&chunk))).filter(|(_, window)| *window > 0)
    }

    /// The bytes of chunks, in the same order.
    pub(super) async fn collect(self: &Arc<Self>, coming: Vec<Coming>) -> Result<Vec<Bytes>, FsError> {
        let mut chunks = Vec::new();
        for coming in coming {
            chunks.push(match coming {
                Coming::Here(bytes) => bytes,
                Coming::Unit(placed, waiting) => self.chunk(placed, waiting).await?,
            });
        }
        Ok(chunks)
    }

    /// A chunk that an earlier process kept, or another one: proved here, once.
    async fn recall(self: &Arc<Self>, chunk: Chunk) -> Option<Bytes> {
        if !self.cache.has(&chunk) {
            return None;
        }
        let (engine, hash) = (Arc::clone(self), self.blob(chunk.blob).ok()?.hash);
        let recall = move || {
            let prove = |bytes: &[u8]| decode::fits(bytes, hash, &chunk);
            engine.cache.recall(&chunk, prove)
        };
        let found = self.work("proof of a kept chunk", recall).await;
        found.ok().flatten().map(Bytes::from)
    }

    /// Where a chunk is. May need its blob's table, which is fetched on a thread that may block.
    pub(super) async fn place(self: &Arc<Self>, chunk: Chunk) -> Result<Placed, FsError> {
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

    /// Runs work that needs a processor and much memory: little of it at once.
    async fn work<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, FsError> {
        let _permit = self.works.acquire().await;
        self.blocking(name, work).await
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
        let found = self.cache.read(&placed.chunk, 0, &mut bytes);
        (found != Found::Nothing).then(|| bytes.into())
    }

    /// The duty to fetch what nobody wants yet, along with a reader's (`urgent`) or when nobody waits; none if it is here, or on its way.
    pub(super) fn claim_ahead(&self, placed: Placed, urgent: bool) -> Option<Fetch> {
        if self.cache.has(&placed.chunk) || !placed.is_single() && self.units.get(placed.key()).is_some() {
            return None;
        }
        let (_, claim) = self.flights.join(placed.key(), urgent);
        claim.map(|claim| Fetch {
            placed,
            claim,
            ahead: true,
        })
    }

    /// Keeps a chunk of a unit that was fetched for another one.
    pub(super) async fn keep_from_unit(self: &Arc<Self>, placed: Placed) {
        if self.cache.has(&placed.chunk) {
            return;
        }
        if let Some(unit) = self.units.get(placed.key()) {
            let engine = Arc::clone(self);
            let keep = move || engine.prove(&placed, &unit, true).is_some();
            // What is not right is found out by whoever wants it.
            let _ = self.work("proof of a chunk", keep).await;
        }
    }

    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            gap_max: self.limits.gap_bytes_max,
            request_max: self.limits.request_bytes_max,
        }
    }

    /// Begins the requests for units. Chunks `ahead` are fetched along with them and kept.
    pub(super) fn launch(self: &Arc<Self>, mut fetches: Vec<Fetch>, ahead: Vec<Chunk>) {
        for fetch in &fetches {
            add(&self.counts.wanted, fetch.placed.unit.packed.len());
        }
        let ahead = ahead.into_iter().map(Placed::single);
        fetches.extend(ahead.filter_map(|placed| self.claim_ahead(placed, true)));
        let mut by_blob: BTreeMap<u32, Vec<(ByteRange, Fetch)>> = BTreeMap::new();
        for fetch in fetches {
            let unit = fetch.placed.unit;
            by_blob.entry(unit.blob).or_default().push((unit.packed, fetch));
        }
        for (blob, fetches) in by_blob {
            for request in merge(fetches, self.bounds()) {
                let engine = Arc::clone(self);
                let work = async move { engine.perform(blob, request, Class::Foreground).await };
                self.tasks.spawn("fetch of chunks", work);
            }
        }
    }
}
