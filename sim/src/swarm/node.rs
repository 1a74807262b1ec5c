//! One node: its engine, its links, who watches it, what it tells whom.

use std::collections::BTreeMap;

use darter_engine::{FetchId, Limits, Offers, Release, Settings, Task};
use darter_types::{Digest, HostId, Moment, PieceNumber, PieceRun, PieceSet};

use super::agenda::{Nanos, NodeIndex};
use super::link::{Download, Upload};

#[derive(Debug)]
pub(super) struct Node {
    pub(super) host: HostId,
    pub(super) task: Option<Task>,
    pub(super) upload: Upload,
    pub(super) download: Download,
    /// Children that listen, and what each was told of.
    pub(super) watchers: BTreeMap<NodeIndex, PieceSet>,
    pub(super) has: PieceSet,
    /// Only for a node that reads the origin.
    pub(super) offers: Option<Offers>,
    /// Requests to parents that run: whom, and since when nothing came.
    pub(super) asked: BTreeMap<FetchId, (NodeIndex, Option<Nanos>)>,
    pub(super) reading_origin: Option<FetchId>,
    /// Pieces that the scheduler was not told of.
    pub(super) news: Vec<PieceRun>,
    pub(super) sent_pieces: u64,
    pub(super) finished_at: Option<Nanos>,
    pub(super) released_at: Option<Nanos>,
}

impl Node {
    pub(super) fn new(host: HostId, pieces: u32, upload_slots: usize) -> Self {
        Self {
            host,
            task: None,
            upload: Upload::new(upload_slots),
            download: Download::default(),
            watchers: BTreeMap::new(),
            has: PieceSet::new(pieces),
            offers: None,
            asked: BTreeMap::new(),
            reading_origin: None,
            news: Vec::new(),
            sent_pieces: 0,
            finished_at: None,
            released_at: None,
        }
    }

    pub(super) fn start(&mut self, digest: Digest, limits: Limits, background: bool, seed: u64, now: Moment) {
        let settings = Settings {
            digest,
            whole: true,
            background,
            release: Release::Linked,
            limits,
            seed,
        };
        self.task = Some(Task::new(settings, now));
    }

    pub(super) fn add_news(&mut self, piece: PieceNumber) {
        match self.news.last_mut() {
            Some(run) if run.end() == piece => run.count += 1,
            _ => self.news.push(PieceRun::one(piece)),
        }
    }

    /// What `child` may be told of now and was not: all that is there, or what the offers show.
    pub(super) fn untold(&mut self, child: NodeIndex, host: &HostId) -> Vec<PieceRun> {
        let Some(told) = self.watchers.get_mut(&child) else {
            return Vec::new();
        };
        let mut new = PieceSet::new(self.has.capacity());
        for piece in self.has.iter().filter(|piece| !told.contains(*piece)) {
            if self
                .offers
                .as_ref()
                .is_none_or(|offers| offers.shows(host, piece))
            {
                new.insert(piece);
            }
        }
        told.insert_all(&new);
        new.runs().collect()
    }

    /// The same for one piece.
    pub(super) fn untold_piece(&mut self, child: NodeIndex, host: &HostId, piece: PieceNumber) -> bool {
        let shown = self
            .offers
            .as_ref()
            .is_none_or(|offers| offers.shows(host, piece));
        shown
            && self
                .watchers
                .get_mut(&child)
                .is_some_and(|told| told.insert(piece))
    }
}
