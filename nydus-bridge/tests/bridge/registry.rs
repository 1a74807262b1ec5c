//! A registry that takes pushes, in memory; it serves ranges as the mirror does.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use darter_service::net::{Network as _, TokioNetwork};
use darter_service::supervise::Tasks;
use darter_testkit::content::sha256_of;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

type Answer = Response<Full<Bytes>>;

#[derive(Debug, Default)]
struct State {
    blobs: BTreeMap<String, Bytes>,
    /// By tag and by digest: media type and bytes.
    manifests: BTreeMap<String, (String, Bytes)>,
    /// Who may come in: the value of `Authorization`.
    authorization: Option<String>,
    /// Blobs that were sent.
    pushed: Vec<String>,
}

/// A registry with one repository, whatever it is called.
#[derive(Clone, Debug, Default)]
pub(crate) struct PushRegistry {
    state: Arc<Mutex<State>>,
}

impl PushRegistry {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Serves on loopback, as long as `tasks`; its address.
    pub(crate) async fn serve(&self, tasks: &Tasks) -> String {
        let mut listener = TokioNetwork.bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (registry, connections) = (self.clone(), tasks.clone());
        tasks.spawn("test registry", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let registry = registry.clone();
                connections.spawn("connection of the test registry", async move {
                    let service = service_fn(move |request| {
                        let registry = registry.clone();
                        async move { Ok::<_, Infallible>(registry.answer(request).await) }
                    });
                    // A client that leaves is none of the test's business.
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        address
    }

    /// From now on only who says this may come in.
    pub(crate) fn require(&self, authorization: &str) {
        self.state().authorization = Some(authorization.to_owned());
    }

    pub(crate) fn add_blob(&self, bytes: Vec<u8>) -> String {
        let digest = sha256_of(&bytes);
        self.state().blobs.insert(digest.clone(), bytes.into());
        digest
    }

    /// Puts other bytes under a digest.
    pub(crate) fn damage(&self, digest: &str) {
        let mut state = self.state();
        let mut bytes = state.blobs[digest].to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        state.blobs.insert(digest.to_owned(), bytes.into());
    }

    pub(crate) fn add_manifest(&self, name: &str, media_type: &str, bytes: Vec<u8>) -> String {
        let digest = sha256_of(&bytes);
        let mut state = self.state();
        for name in [name, &digest] {
            let entry = (media_type.to_owned(), Bytes::from(bytes.clone()));
            state.manifests.insert(name.to_owned(), entry);
        }
        digest
    }

    pub(crate) fn manifest(&self, name: &str) -> Option<serde_json::Value> {
        let bytes = self.state().manifests.get(name)?.1.clone();
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    pub(crate) fn blob(&self, digest: &str) -> Option<Bytes> {
        self.state().blobs.get(digest).cloned()
    }

    /// What was pushed since this was asked.
    pub(crate) fn take_pushed(&self) -> Vec<String> {
        std::mem::take(&mut self.state().pushed)
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let path: Vec<&str> = parts.uri.path().split('/').collect();
        let query = parts.uri.query().unwrap_or_default();
        let given = parts.headers.get(header::AUTHORIZATION);
        let given = given.map(|value| value.to_str().unwrap().to_owned());
        let wanted = self.state().authorization.clone();
        if wanted.is_some() && given != wanted {
            return respond(401, &[("www-authenticate", "Basic realm=\"test\"")], "");
        }
        let place = path.split_at(path.len() - 2).1;
        match (&parts.method, place) {
            (&Method::GET, ["v2", ""]) => respond(200, &[], "{}"),
            (&Method::POST, ["uploads", ""]) => {
                respond(202, &[("location", &format!("{}1", parts.uri.path()))], "")
            }
            (&Method::PUT, ["uploads", _]) => self.uploaded(query, &body),
            (&Method::PUT, ["manifests", name]) => {
                let kind = parts.headers[header::CONTENT_TYPE].to_str().unwrap();
                let digest = self.add_manifest(name, kind, body.to_vec());
                respond(201, &[("location", &digest)], "")
            }
            (&Method::GET | &Method::HEAD, ["manifests", name]) => self.shown(name),
            (&Method::GET | &Method::HEAD, ["blobs", digest]) => self.sent(digest, &parts.headers),
            _ => respond(404, &[], "{}"),
        }
    }

    fn uploaded(&self, query: &str, body: &Bytes) -> Answer {
        let digest = query.strip_prefix("digest=").unwrap().replace("%3A", ":");
        if digest != sha256_of(body) {
            return respond(
                400,
                &[],
                r#"{"errors":[{"code":"DIGEST_INVALID","message":"wrong"}]}"#,
            );
        }
        let mut state = self.state();
        state.pushed.push(digest.clone());
        state.blobs.insert(digest.clone(), body.clone());
        respond(201, &[("location", &digest)], "")
    }

    fn shown(&self, name: &str) -> Answer {
        let Some((kind, bytes)) = self.state().manifests.get(name).cloned() else {
            return respond(
                404,
                &[],
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"none"}]}"#,
            );
        };
        let digest = sha256_of(&bytes);
        respond(
            200,
            &[("content-type", &kind), ("docker-content-digest", &digest)],
            bytes,
        )
    }

    fn sent(&self, digest: &str, headers: &HeaderMap) -> Answer {
        let Some(bytes) = self.blob(digest) else {
            return respond(
                404,
                &[],
                r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"none"}]}"#,
            );
        };
        let Some(range) = headers.get(header::RANGE) else {
            return respond(200, &[], bytes);
        };
        let range = range.to_str().unwrap().strip_prefix("bytes=").unwrap();
        let (first, last) = range.split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        let whole = format!("bytes {first}-{last}/{}", bytes.len());
        respond(206, &[("content-range", &whole)], bytes.slice(first..=last))
    }
}

fn respond(status: u16, headers: &[(&'static str, &str)], body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        answer.headers_mut().insert(*name, value.parse().unwrap());
    }
    answer
}
