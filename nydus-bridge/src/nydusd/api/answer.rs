//! The forms of answers, as nydusd gives them: lists have its lengths, failures its two keys.

use bytes::Bytes;
use darter_service::build_info;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::nydusd::daemon::{Daemon, DaemonError, now};

/// FUSE_READ, as the kernel numbers it.
const READ: u32 = 15;

fn with(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Done, and nothing to say.
pub(super) fn nothing() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Not done, with this status.
pub(super) fn refusal(status: u16, message: &str) -> Response<Full<Bytes>> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    with(status, &json!({"code": "UNDEFINED", "message": message}))
}

/// Not done, for this reason.
pub(super) fn failure(error: &DaemonError) -> Response<Full<Bytes>> {
    let status = match error {
        DaemonError::Unknown(_) => 404,
        DaemonError::Config(_) => 400,
        _ => 500,
    };
    refusal(status, &error.to_string())
}

/// Which process this is, how far it is, and what it shows.
pub(super) fn info(daemon: &Daemon) -> Response<Full<Bytes>> {
    let options = daemon.options();
    let mut collection = Map::new();
    for about in daemon.about() {
        let shown = json!({
            "backend_type": "rafs",
            "mountpoint": about.mountpoint,
            "mounted_time": about.mounted,
            "config": {"backend": about.kind, "from": about.from},
        });
        collection.insert(about.mountpoint, shown);
    }
    let info = json!({
        "id": options.id,
        "version": version(),
        "supervisor": options.supervisor,
        "state": daemon.state().name(),
        "backend_collection": collection,
    });
    with(StatusCode::OK, &info)
}

/// Which build this is.
fn version() -> Value {
    json!({
        "package_ver": build_info::VERSION,
        "git_commit": build_info::COMMIT,
        "build_time": "unknown",
        "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
        "rustc": "unknown",
    })
}

/// What was counted of an image.
pub(super) fn metrics(daemon: &Daemon, id: Option<&str>) -> Response<Full<Bytes>> {
    let counts = match daemon.counts(id) {
        Ok(counts) => counts,
        Err(error) => return failure(&error),
    };
    let metrics = json!({
        "files_account_enabled": false,
        "access_pattern_enabled": false,
        "measure_latency": true,
        "record_latest_read_files_enabled": false,
        "id": id.unwrap_or("/"),
        // Files are not opened: the kernel does without.
        "nr_opens": 0,
        "last_fop_tp": 0,
        "data_read": counts.read_bytes,
        "block_count_read": counts.read_sizes,
        "fop_hits": counts.hits,
        "fop_errors": counts.errors,
        "fop_cumulative_latency_total": counts.micros,
        "read_latency_dist": counts.read_times,
    });
    with(StatusCode::OK, &metrics)
}

/// What was counted of an image's cache. Its files have no names: nobody has to remove them.
pub(super) fn cache_metrics(daemon: &Daemon, id: Option<&str>) -> Response<Full<Bytes>> {
    let cached = match daemon.cached(id) {
        Ok(cached) => cached,
        Err(error) => return failure(&error),
    };
    let reads: u64 = cached.counts.read_sizes.iter().sum();
    let metrics = json!({
        "id": id.unwrap_or("/"),
        "underlying_files": [],
        "store_path": cached.folder,
        "partial_hits": 0,
        "whole_hits": reads.saturating_sub(cached.counts.reads_waited),
        "total": reads,
        "entries_count": 0,
        "prefetch_data_amount": 0,
        "prefetch_requests_count": 0,
        "prefetch_workers": 0,
        "prefetch_unmerged_chunks": 0,
        "prefetch_cumulative_time_millis": 0,
        "prefetch_begin_time_secs": 0,
        "prefetch_begin_time_millis": 0,
        "prefetch_end_time_secs": 0,
        "prefetch_end_time_millis": 0,
        "buffered_backend_size": 0,
        "data_all_ready": false,
    });
    with(StatusCode::OK, &metrics)
}

/// The reads that wait for bytes from elsewhere.
pub(super) fn inflight(daemon: &Daemon) -> Response<Full<Bytes>> {
    let waiting = daemon.waiting();
    if waiting.is_empty() {
        return nothing();
    }
    let (wall, clock) = (now(), Instant::now());
    let shown = waiting.iter().map(|read| {
        json!({
            "inode": read.ino,
            "opcode": READ,
            "unique": read.unique,
            "timestamp_secs": wall.saturating_sub(clock.saturating_duration_since(read.since).as_secs()),
        })
    });
    with(StatusCode::OK, &shown.collect())
}
