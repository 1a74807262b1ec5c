//! Pushes, for origins that take them: uploads in one piece, manifests, and the referrers that a push makes.
//!
//! Uploads in chunks are not here: nothing that is tested sends them.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, Method, StatusCode, header};
use serde_json::Value;

use super::plan::{Plan, text};
use super::route::{Route, query_values};
use super::{Manifest, Origin, State};
use crate::content::{Content, sha256_of};

/// Longest body of a request.
pub(super) const BODY_BYTES_MAX: usize = 256 << 20;

/// Whether a request would change something.
pub(super) fn writes(method: &Method) -> bool {
    *method == Method::POST || *method == Method::PUT
}

impl Origin {
    /// Takes pushes from now on: from everybody, or from the readers where readers are known.
    pub fn take_pushes(&self) {
        self.state().pushable = true;
    }

    /// A manifest by its tag or digest, as it is.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<Bytes> {
        let state = self.state();
        let repository = state.repositories.get(repository)?;
        let digest = repository.tags.get(reference).map_or(reference, String::as_str);
        Some(repository.manifests.get(digest)?.bytes.clone())
    }

    /// A blob.
    pub fn blob(&self, repository: &str, digest: &str) -> Option<Content> {
        self.state()
            .repositories
            .get(repository)?
            .blobs
            .get(digest)
            .cloned()
    }
}

impl State {
    /// Does what a request wants to be done.
    pub(super) fn pushed(&mut self, request: &Parts, route: &Route, body: &Bytes) -> Plan {
        match (route, &request.method) {
            (Route::Upload { name, id: None }, &Method::POST) => {
                let mut plan = created(StatusCode::ACCEPTED);
                plan.set(header::LOCATION, &format!("/v2/{name}/blobs/uploads/1?state=x"));
                plan
            }
            (Route::Upload { name, id: Some(_) }, &Method::PUT) => {
                let digest = query_values(request.uri.query(), "digest");
                if digest.first() != Some(&sha256_of(body)) {
                    return wrong("DIGEST_INVALID", "the digest is another one");
                }
                let blobs = &mut self.repository(name).blobs;
                blobs.extend(digest.into_iter().map(|digest| (digest, body.clone().into())));
                created(StatusCode::CREATED)
            }
            (Route::Manifest { name, reference }, &Method::PUT) => {
                self.pushed_manifest(request, (name, reference), body)
            }
            _ => Plan::error(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "not here"),
        }
    }

    fn pushed_manifest(&mut self, request: &Parts, (name, reference): (&str, &str), body: &Bytes) -> Plan {
        let digest = sha256_of(body);
        let Ok(parsed) = serde_json::from_slice::<Value>(body) else {
            return wrong("MANIFEST_INVALID", "it is no JSON");
        };
        if reference.contains(':') && reference != digest {
            return wrong("DIGEST_INVALID", "the digest is another one");
        }
        let media_type = text(&request.headers, &header::CONTENT_TYPE).unwrap_or_default();
        let manifest = Manifest {
            media_type: media_type.to_owned(),
            bytes: body.clone(),
        };
        let repository = self.repository(name);
        repository.manifests.insert(digest.clone(), manifest);
        if !reference.contains(':') {
            repository.tags.insert(reference.to_owned(), digest.clone());
        }
        let mut plan = created(StatusCode::CREATED);
        plan.set(header::LOCATION, &format!("/v2/{name}/manifests/{digest}"));
        let subject = parsed.pointer("/subject/digest").and_then(Value::as_str);
        if let Some(subject) = subject.filter(|_| self.referrers_supported) {
            plan.set(HeaderName::from_static("oci-subject"), subject);
        }
        plan
    }
}

fn created(status: StatusCode) -> Plan {
    let mut plan = Plan::content(Content::from(""), "text/plain");
    plan.status = status;
    plan
}

fn wrong(code: &str, message: &str) -> Plan {
    Plan::error(StatusCode::BAD_REQUEST, code, message)
}
