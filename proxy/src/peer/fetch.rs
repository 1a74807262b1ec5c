//! Fetching a run of pieces from a parent: hash as bytes come, write and report each piece that links.
//!
//! A piece is written in one go, and only once it is linked: two requests for one piece, one of them to a liar, can then
//! never mix their bytes in the file. What waits in memory is bounded for the whole node ([`Peers::room`]).

use std::sync::Arc;

use bytes::Bytes;
use darter_engine::{Event, FetchFailure, FetchId, ParentFailure};
use darter_service::limit::{Limiter, Pacer};
use darter_store::StoredTask;
use darter_types::{HostId, PieceHasher, PieceProof, PieceRun};
use http::{StatusCode, header};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Peers, Remote};
use crate::pull::{Right, Shared};

/// One request to a parent.
#[derive(Debug)]
pub(crate) struct PeerFetch {
    pub(crate) fetch: FetchId,
    pub(crate) host: HostId,
    pub(crate) address: String,
    pub(crate) right: Right,
    pub(crate) run: PieceRun,
    /// One for each piece of the run.
    pub(crate) proofs: Vec<PieceProof>,
    pub(crate) stored: Arc<dyn StoredTask>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) shared: Arc<Shared>,
    /// The rate of what nobody waits for.
    pub(crate) background: Limiter,
}

impl PeerFetch {
    fn remote(&self) -> Remote<'_> {
        Remote {
            host: &self.host,
            address: &self.address,
            right: &self.right,
        }
    }
}

impl Peers {
    /// Runs a request to its end and reports it.
    pub(crate) async fn fetch(&self, request: PeerFetch) {
        let failure = self.read(&request).await.err();
        if let Some(failure) = &failure {
            tracing::Span::current().record("failure", tracing::field::debug(failure));
        }
        let _ = request
            .events
            .send(Event::FetchEnded {
                fetch: request.fetch,
                failure,
            })
            .await;
    }

    async fn read(&self, request: &PeerFetch) -> Result<(), FetchFailure> {
        let task = request.stored.task();
        let piece_length = request.stored.facts().layout.piece_length();
        let _room = self.room(piece_length).await;
        let mut walk = Walk::new(request);
        if let Some(content) = self.take_inline(request.remote(), task) {
            return walk.take(content).await;
        }
        let path = format!("/v1/tasks/{task}/pieces");
        let range = request.stored.facts().layout.run_range(request.run);
        let value = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        let asked = self.ask(request.remote(), &path, header::RANGE, &value).await;
        let (connection, answer) = asked.map_err(FetchFailure::Parent)?;
        let exact = format!("bytes {}-{}/", range.start, range.end.saturating_sub(1));
        let fits = |value: &http::HeaderValue| value.to_str().is_ok_and(|text| text.starts_with(&exact));
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if answer.headers().get(header::CONTENT_RANGE).is_some_and(fits) => {}
            StatusCode::PARTIAL_CONTENT | StatusCode::OK => {
                return Err(FetchFailure::Parent(ParentFailure::WrongBytes));
            }
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(FetchFailure::Parent(ParentFailure::Missing));
            }
            _ => return Err(FetchFailure::Parent(ParentFailure::Busy)),
        }
        let began = Instant::now();
        let mut body = answer.into_body();
        let mut pacer = Pacer::new([self.rate()]);
        while let Some(bytes) = self.next_frame(&mut body).await.map_err(FetchFailure::Parent)? {
            pacer.came(bytes.len() as u64);
            let (shared, background) = (&request.shared, &request.background);
            shared.yield_to_readers(background, bytes.len() as u64).await;
            walk.take(bytes).await?;
            pacer.ready().await;
        }
        if !walk.is_done() {
            return Err(FetchFailure::Parent(ParentFailure::Unreachable));
        }
        self.note_cost(&request.host, range.len(), began.elapsed());
        self.give_back(request.remote(), connection);
        Ok(())
    }
}

/// Where in its run a request stands.
struct Walk<'a> {
    request: &'a PeerFetch,
    rest: std::slice::Iter<'a, PieceProof>,
    current: Option<(PieceProof, PieceHasher)>,
    piece: u32,
    /// Bytes of the current piece so far.
    buffer: Vec<u8>,
}

impl<'a> Walk<'a> {
    fn new(request: &'a PeerFetch) -> Self {
        let mut rest = request.proofs.iter();
        let current = rest.next().map(|proof| (*proof, proof.hasher()));
        Self {
            request,
            rest,
            current,
            piece: request.run.first,
            buffer: Vec::new(),
        }
    }

    fn is_done(&self) -> bool {
        self.current.is_none()
    }

    /// Takes in the next bytes. Anything behind the run, and a piece that does not link, is the parent's fault.
    async fn take(&mut self, mut bytes: Bytes) -> Result<(), FetchFailure> {
        while !bytes.is_empty() {
            let Some((proof, hasher)) = self.current.as_mut() else {
                return Err(FetchFailure::Parent(ParentFailure::WrongBytes));
            };
            let missing =
                usize::try_from(proof.offset + proof.length - hasher.offset()).unwrap_or(usize::MAX);
            let part = bytes.split_to(bytes.len().min(missing));
            self.buffer.reserve_exact(missing.max(part.len()));
            self.buffer.extend_from_slice(&part);
            hasher.update(&part);
            if hasher.offset() == proof.offset + proof.length {
                self.link().await?;
            }
        }
        Ok(())
    }

    async fn link(&mut self) -> Result<(), FetchFailure> {
        let next = self.rest.next().map(|proof| (*proof, proof.hasher()));
        let Some((proof, hasher)) = std::mem::replace(&mut self.current, next) else {
            return Ok(());
        };
        if !proof.accepts(hasher) {
            return Err(FetchFailure::Parent(ParentFailure::WrongBytes));
        }
        self.request
            .stored
            .write(proof.offset, &self.buffer)
            .map_err(|_| FetchFailure::Store)?;
        self.buffer.clear();
        let event = Event::PieceLinked {
            fetch: self.request.fetch,
            piece: self.piece,
        };
        self.piece += 1;
        let _ = self.request.events.send(event).await;
        Ok(())
    }
}
