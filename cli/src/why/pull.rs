//! One pull out of the proxy's journal: the requests that belong together, each with where its bytes came from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::image::Image;

/// Requests further apart than this belong to different pulls.
const GAP_MS: u64 = 30_000;

/// What the proxy remembers.
#[derive(Debug, Deserialize)]
pub(super) struct Journal {
    now_ms: u64,
    requests: Vec<Request>,
    downloads: Vec<Download>,
}

#[derive(Clone, Debug, Deserialize)]
struct Request {
    registry: String,
    repository: String,
    endpoint: String,
    head: bool,
    began_ms: u64,
    answered_ms: Option<u64>,
    status: Option<u16>,
    ended_ms: Option<u64>,
    sent_bytes: u64,
}

#[derive(Debug, Deserialize)]
struct Download {
    digest: String,
    began_ms: u64,
    asked_ms: Option<u64>,
    first_ms: Option<u64>,
    ended_ms: u64,
    error: Option<String>,
    origin_bytes: u64,
    peers: BTreeMap<String, u64>,
}

/// The last pull of an image.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Pull {
    /// The image.
    pub(super) image: String,
    /// How long ago it began.
    pub(super) ago_ms: u64,
    /// From its first request to its last byte.
    pub(super) took_ms: u64,
    /// Whether something of it is still on its way.
    pub(super) running: bool,
    /// Its requests in their order; times count from the first.
    pub(super) steps: Vec<Step>,
}

/// One request.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Step {
    /// `resolve`, `manifest`, `layer` or what else was asked for.
    pub(super) kind: String,
    /// The tag or the digest.
    pub(super) name: String,
    pub(super) status: Option<u16>,
    pub(super) began_ms: u64,
    /// When its first byte, or its head, left the proxy.
    pub(super) answered_ms: Option<u64>,
    pub(super) ended_ms: Option<u64>,
    pub(super) sent_bytes: u64,
    /// Bytes that were fetched for it from the registry.
    pub(super) origin_bytes: u64,
    /// Bytes that were fetched for it from other nodes, by name.
    pub(super) peers: BTreeMap<String, u64>,
    /// Bytes that were here already.
    pub(super) cache_bytes: u64,
    /// From the question to the scheduler to the first piece.
    pub(super) source_wait_ms: Option<u64>,
    /// Why its download broke off.
    pub(super) error: Option<String>,
}

/// The last pull of `image`: the last requests of its repository that lie close together, and among them its reference.
pub(super) fn last(journal: &Journal, image: &Image) -> Option<Pull> {
    let ours =
        |request: &&Request| request.registry == image.registry && request.repository == image.repository;
    let mut requests: Vec<&Request> = journal.requests.iter().filter(ours).collect();
    requests.sort_by_key(|request| request.began_ms);
    let mut pulls: Vec<Vec<&Request>> = Vec::new();
    let mut busy_until = 0;
    for request in requests {
        match pulls.last_mut() {
            Some(pull) if request.began_ms.saturating_sub(busy_until) <= GAP_MS => pull.push(request),
            _ => pulls.push(vec![request]),
        }
        busy_until = request.ended_ms.unwrap_or(journal.now_ms).max(busy_until);
    }
    let wanted = format!("manifests/{}", image.reference);
    let named = |pull: &&Vec<&Request>| pull.iter().any(|request| request.endpoint == wanted);
    // By digest, or resolved at the registry: the reference itself was not asked for here.
    let requests = pulls.iter().rev().find(named).or(pulls.last())?;
    let began = requests.first()?.began_ms;
    let ends = requests
        .iter()
        .map(|request| request.ended_ms.unwrap_or(journal.now_ms));
    Some(Pull {
        image: image.to_string(),
        ago_ms: journal.now_ms.saturating_sub(began),
        took_ms: ends.max()?.saturating_sub(began),
        running: requests.iter().any(|request| request.ended_ms.is_none()),
        steps: requests
            .iter()
            .map(|request| step(request, &journal.downloads, began))
            .collect(),
    })
}

fn step(request: &Request, downloads: &[Download], began: u64) -> Step {
    let (kind, name) = request
        .endpoint
        .split_once('/')
        .unwrap_or((&request.endpoint, ""));
    let digest = name.contains(':');
    let kind = match kind {
        "manifests" if digest => "manifest",
        "manifests" => "resolve",
        "blobs" => "layer",
        other => other,
    };
    // The download that was on while the request was.
    let end = request.ended_ms.unwrap_or(u64::MAX);
    let download = downloads.iter().rev().find(|download| {
        !request.head
            && download.digest == name
            && download.began_ms <= end
            && download.ended_ms >= request.began_ms
    });
    let origin_bytes = download.map_or(0, |download| download.origin_bytes);
    let peers = download
        .map(|download| download.peers.clone())
        .unwrap_or_default();
    let fetched = origin_bytes + peers.values().sum::<u64>();
    let since = |moment: u64| moment.saturating_sub(began);
    Step {
        kind: kind.to_owned(),
        name: name.to_owned(),
        status: request.status,
        began_ms: since(request.began_ms),
        answered_ms: request.answered_ms.map(since),
        ended_ms: request.ended_ms.map(since),
        sent_bytes: request.sent_bytes,
        origin_bytes,
        peers,
        // Of a manifest that the registry gave nothing is known here but that it was not stored before.
        cache_bytes: match kind {
            "layer" if request.status.is_some_and(|status| status < 300) => {
                request.sent_bytes.saturating_sub(fetched)
            }
            _ => 0,
        },
        source_wait_ms: download.and_then(|one| Some(one.first_ms?.saturating_sub(one.asked_ms?))),
        error: download.and_then(|download| download.error.clone()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A journal with an older pull, another image's, and one with a layer of each source.
    pub(in super::super) fn journal() -> Journal {
        let text = r#"{"now_ms": 100000, "requests": [
          {"registry":"docker.io","repository":"library/nginx","endpoint":"manifests/latest","head":true,"began_ms":10,"answered_ms":20,"status":200,"ended_ms":20,"sent_bytes":0},
          {"registry":"docker.io","repository":"library/redis","endpoint":"manifests/latest","head":true,"began_ms":79000,"answered_ms":79010,"status":200,"ended_ms":79010,"sent_bytes":0},
          {"registry":"docker.io","repository":"library/nginx","endpoint":"manifests/latest","head":true,"began_ms":80000,"answered_ms":80210,"status":200,"ended_ms":80210,"sent_bytes":0},
          {"registry":"docker.io","repository":"library/nginx","endpoint":"manifests/sha256:aaaaaaaaaaaaaaaa","head":false,"began_ms":80220,"answered_ms":80230,"status":200,"ended_ms":80231,"sent_bytes":1800},
          {"registry":"docker.io","repository":"library/nginx","endpoint":"blobs/sha256:bbbbbbbbbbbbbbbb","head":false,"began_ms":80240,"answered_ms":80260,"status":200,"ended_ms":81900,"sent_bytes":41943040},
          {"registry":"docker.io","repository":"library/nginx","endpoint":"blobs/sha256:cccccccccccccccc","head":false,"began_ms":80240,"answered_ms":80900,"status":200,"ended_ms":82200,"sent_bytes":20971520},
          {"registry":"docker.io","repository":"library/nginx","endpoint":"blobs/sha256:dddddddddddddddd","head":false,"began_ms":80240,"answered_ms":80241,"status":200,"ended_ms":80300,"sent_bytes":3000},
          {"registry":"docker.io","repository":"library/nginx","endpoint":"blobs/sha256:eeeeeeeeeeeeeeee","head":false,"began_ms":82210,"answered_ms":82300,"status":503,"ended_ms":82300,"sent_bytes":90}
        ], "downloads": [
          {"digest":"sha256:bbbbbbbbbbbbbbbb","began_ms":80241,"asked_ms":80242,"first_ms":80262,"ended_ms":81890,"error":null,"origin_bytes":0,"peers":{"node-3":10485760,"seed-1":31457280}},
          {"digest":"sha256:cccccccccccccccc","began_ms":80241,"asked_ms":80242,"first_ms":80900,"ended_ms":82190,"error":null,"origin_bytes":20971520,"peers":{}},
          {"digest":"sha256:eeeeeeeeeeeeeeee","began_ms":82211,"asked_ms":null,"first_ms":null,"ended_ms":82299,"error":"the registry cannot be reached","origin_bytes":0,"peers":{}}
        ]}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_last_pull_is_found_with_its_sources() {
        let pull = last(&journal(), &"nginx".parse().unwrap()).unwrap();
        assert_eq!((pull.ago_ms, pull.took_ms, pull.running), (20_000, 2300, false));
        let kinds: Vec<&str> = pull.steps.iter().map(|step| step.kind.as_str()).collect();
        assert_eq!(kinds, ["resolve", "manifest", "layer", "layer", "layer", "layer"]);
        let sources = |n: usize| {
            let step = &pull.steps[n];
            (
                step.cache_bytes,
                step.origin_bytes,
                step.peers.values().sum::<u64>(),
            )
        };
        assert_eq!(sources(2), (0, 0, 41_943_040));
        assert_eq!(sources(3), (0, 20_971_520, 0));
        assert_eq!(sources(4), (3000, 0, 0));
        assert_eq!(pull.steps[3].source_wait_ms, Some(658));
        assert!(pull.steps[5].error.is_some());
    }

    #[test]
    fn an_image_that_nobody_pulled_is_not_found() {
        assert_eq!(last(&journal(), &"postgres".parse().unwrap()), None);
        // The repository was pulled by another tag: that pull is what there is to show.
        assert!(last(&journal(), &"redis:7".parse().unwrap()).is_some());
    }
}
