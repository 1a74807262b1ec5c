//! The body of an answer with pieces: slices of the stored file, as fast as the rates allow.

use std::sync::Arc;

use bytes::Bytes;
use darter_service::limit::Limiter;
use darter_store::StoredTask;
use darter_types::{ByteRange, PieceLayout};
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::OwnedSemaphorePermit;

use super::server::PeerBody;
use crate::metrics::PeerMetrics;
use crate::pull::{Availability, PullError};

/// Longest slice that is sent at once, in bytes.
const SLICE_BYTES_MAX: u64 = 1024 * 1024;
/// The same where a rate binds: many answers then take turns, and none is silent for long.
const LIMITED_SLICE_BYTES_MAX: u64 = 64 * 1024;

/// The body of one answer with pieces.
pub(super) struct Upload {
    pub(super) stored: Arc<dyn StoredTask>,
    pub(super) availability: Arc<Availability>,
    pub(super) layout: PieceLayout,
    pub(super) range: ByteRange,
    pub(super) offset: u64,
    pub(super) rates: [Limiter; 2],
    pub(super) metrics: Arc<PeerMetrics>,
    pub(super) _turn: OwnedSemaphorePermit,
}

impl Upload {
    pub(super) fn into_body(self) -> PeerBody {
        let frames = stream::unfold(self, |mut upload| async move {
            let next = upload.next().await?;
            Some((next.map(Frame::data), upload))
        });
        StreamBody::new(frames).boxed_unsync()
    }

    async fn next(&mut self) -> Option<Result<Bytes, PullError>> {
        if self.offset >= self.range.end {
            for piece in self.layout.pieces_of(self.range).pieces() {
                self.availability.sent(piece);
            }
            return None;
        }
        let limited = self.rates.iter().any(|rate| !rate.is_unlimited());
        let slice = if limited {
            LIMITED_SLICE_BYTES_MAX
        } else {
            SLICE_BYTES_MAX
        };
        let end = self.range.end.min(self.offset + slice);
        for rate in &self.rates {
            rate.take(end - self.offset).await;
        }
        let bytes = self.stored.read(ByteRange::new(self.offset, end));
        let bytes = bytes.map_err(|error| PullError::Store(error.to_string()));
        if let Ok(bytes) = &bytes {
            self.offset += bytes.len() as u64;
            self.metrics.sent(bytes.len());
        }
        Some(bytes)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.metrics.upload_ended();
    }
}
