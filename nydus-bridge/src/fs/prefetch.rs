//! What is fetched before anybody wants it: what earlier mounts of the image read first, what the image itself names, what
//! the operator names, or everything.
//!
//! Never in a reader's way: nothing is asked for while a reader waits, few requests are out at once, and the mirror is told
//! that they can wait. A chunk is claimed only when its request goes out, so that a reader who wants it never waits for a
//! turn that is not his.

mod plan;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use darter_types::ByteRange;

use self::plan::Plan;
use super::chunk::{Chunk, Placed};
use super::engine::{Class, Engine};
use super::image::OpenImage;
use super::merge::merge;
use super::record::Seen;
use super::stats::add;

/// The part of the cache's bound that may be filled in the background: the rest is for what is really read.
const PART: u64 = 2;
/// Longest list of files.
const LIST_BYTES_MAX: u64 = 16 << 20;

/// What is fetched before anybody wants it, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefetch {
    /// What earlier mounts read first ([`OpenImage::load_record`]).
    pub seen: Vec<Seen>,
    /// What the image's own table names.
    pub table: bool,
    /// Files and directories, as paths in the image.
    pub paths: Vec<PathBuf>,
    /// Everything.
    pub all: bool,
}

impl Prefetch {
    /// Reads a list of files and directories: a path a line; empty lines and those that begin with `#` are passed over.
    ///
    /// # Errors
    /// It cannot be read, or is too long.
    pub fn read_list(list: &Path) -> io::Result<Vec<PathBuf>> {
        let mut text = String::new();
        File::open(list)?
            .take(LIST_BYTES_MAX + 1)
            .read_to_string(&mut text)?;
        if text.len() as u64 > LIST_BYTES_MAX {
            return Err(io::Error::other(format!(
                "it is longer than {LIST_BYTES_MAX} bytes"
            )));
        }
        let lines = text.lines().map(str::trim);
        Ok(lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(PathBuf::from)
            .collect())
    }
}

impl OpenImage {
    /// Begins to fetch in the background. It ends by itself.
    pub fn prefetch(&self, wanted: &Prefetch) {
        let plan = Arc::new(Mutex::new(Plan::new(Arc::clone(&self.tree), wanted)));
        for _ in 0..self.engine.limits().background_max {
            let (engine, plan) = (Arc::clone(&self.engine), Arc::clone(&plan));
            let work = async move {
                while let Some(piece) = next(&engine, &plan).await {
                    engine.fetch_in_background(piece).await;
                }
            };
            self.engine.tasks().spawn("prefetch", work);
        }
    }
}

/// The next piece, which is found by a walk through the bootstrap.
async fn next(engine: &Arc<Engine>, plan: &Arc<Mutex<Plan>>) -> Option<Vec<Chunk>> {
    if engine.background_is_spent() {
        return None;
    }
    engine.quiet().await;
    let (plan, bytes) = (Arc::clone(plan), engine.limits().request_bytes_max);
    let look = move || {
        let mut plan = plan.lock().unwrap_or_else(PoisonError::into_inner);
        plan.next_piece(bytes)
    };
    let piece = engine.blocking("look for what to prefetch", look).await.ok()?;
    (!piece.is_empty()).then_some(piece)
}

impl Engine {
    /// Waits until no reader waits.
    async fn quiet(&self) {
        let mut waiting = self.waiting().subscribe();
        // The other end is this engine's own.
        let _ = waiting.wait_for(|readers| *readers == 0).await;
    }

    fn background_is_spent(&self) -> bool {
        let spent = self.counts().background.load(Ordering::Relaxed);
        spent >= self.limits().cache_bytes_max / PART
    }

    /// Fetches and keeps chunks, when nobody waits. What cannot be had is left to whoever wants it.
    async fn fetch_in_background(self: &Arc<Self>, chunks: Vec<Chunk>) {
        let mut by_blob: BTreeMap<u32, Vec<(ByteRange, Placed)>> = BTreeMap::new();
        for chunk in chunks {
            let Ok(placed) = self.place(chunk).await else {
                return;
            };
            let parts = by_blob.entry(chunk.blob).or_default();
            parts.push((placed.unit.packed, placed));
        }
        for (blob, parts) in by_blob {
            for request in merge(parts, self.bounds()) {
                self.ask_in_background(blob, request.parts).await;
            }
        }
    }

    async fn ask_in_background(self: &Arc<Self>, blob: u32, parts: Vec<(ByteRange, Placed)>) {
        self.quiet().await;
        let claims = parts.iter().filter_map(|(range, placed)| {
            let fetch = self.claim_ahead(*placed, false)?;
            Some((*range, fetch))
        });
        for request in merge(claims.collect(), self.bounds()) {
            let length = request.range.len();
            Arc::clone(self).perform(blob, request, Class::Background).await;
            add(&self.counts().background, length);
        }
        // A unit is kept for the chunk for which it was fetched: its neighbours are in it as well.
        for (_, placed) in parts {
            if !placed.is_single() {
                self.keep_from_unit(placed).await;
            }
        }
    }
}
