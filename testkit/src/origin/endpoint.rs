//! What a correct registry answers: distribution-spec v1.1, pull side, and the token endpoint.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, Method, StatusCode, header};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::access::{Asker, Denial, Refusal};
use super::fault::Seen;
use super::plan::{Plan, text};
use super::push::writes;
use super::route::{Route, query_values};
use super::{Manifest, Repository, State};

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

impl State {
    /// The whole decision on one request: access, faults, the endpoint's own answer.
    pub(super) fn answer(
        &mut self,
        request: &Parts,
        body: &Bytes,
        route: &Route,
        digest: Option<&str>,
        secure: bool,
    ) -> Plan {
        let refusal = self.refusal(request, route, secure);
        let faults = self.rules.select(&Seen {
            method: &request.method,
            path: request.uri.path(),
            repository: route.name(),
            digest,
            kind: route.kind(),
            refused: refusal.is_some(),
        });
        let mut plan = refusal.unwrap_or_else(|| self.endpoint(request, body, route));
        for fault in &faults {
            plan.change(fault, request);
        }
        plan.take_range(request);
        for fault in &faults {
            plan.misbehave(fault, request, self, digest);
        }
        plan.frame();
        plan
    }

    /// The digest that a request aims at, if it has one.
    pub(super) fn digest_of(&self, route: &Route) -> Option<String> {
        match route {
            Route::Blob { digest, .. } | Route::Storage { digest } => Some(digest.clone()),
            Route::Manifest { name, reference } => {
                let tags = self.repositories.get(name).map(|repository| &repository.tags);
                let tagged = tags.and_then(|tags| tags.get(reference)).cloned();
                tagged.or_else(|| reference.contains(':').then(|| reference.clone()))
            }
            Route::Ping
            | Route::Token
            | Route::Referrers { .. }
            | Route::Tags { .. }
            | Route::Upload { .. }
            | Route::Unknown => None,
        }
    }

    fn refusal(&self, request: &Parts, route: &Route, secure: bool) -> Option<Plan> {
        let name = route.name();
        if name.is_none() && *route != Route::Ping {
            return None;
        }
        let none = Repository::default();
        let repository = name.map(|name| self.repositories.get(name).unwrap_or(&none));
        let scheme = if secure { "https" } else { "http" };
        let host = text(&request.headers, &header::HOST).unwrap_or("localhost");
        let base = format!("{scheme}://{host}");
        let authorization = text(&request.headers, &header::AUTHORIZATION);
        let refusal = self
            .access
            .check(
                &Asker {
                    authorization,
                    base: &base,
                    name,
                    writes: writes(&request.method),
                },
                repository,
            )
            .err()?;
        Some(match refusal {
            Refusal::Challenge(challenge) => {
                let message = "authentication required";
                let mut plan = Plan::error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message);
                plan.set(header::WWW_AUTHENTICATE, &challenge);
                plan
            }
            Refusal::Denied(Denial::Forbidden) => {
                Plan::error(StatusCode::FORBIDDEN, "DENIED", "access denied")
            }
            Refusal::Denied(Denial::NotFound) => not_found("NAME_UNKNOWN"),
        })
    }

    fn endpoint(&mut self, request: &Parts, body: &Bytes, route: &Route) -> Plan {
        if self.pushable && writes(&request.method) {
            return self.pushed(request, route, body);
        }
        if request.method != Method::GET && request.method != Method::HEAD {
            return Plan::error(
                StatusCode::METHOD_NOT_ALLOWED,
                "UNSUPPORTED",
                "this origin is read-only",
            );
        }
        match route {
            Route::Ping => ping(),
            Route::Token => self.token(request),
            Route::Storage { digest } => self.storage(request, digest),
            Route::Unknown | Route::Upload { .. } => not_found("NAME_UNKNOWN"),
            Route::Manifest { name, reference } => self.manifest(request, name, reference),
            Route::Blob { name, digest } => {
                let content = self
                    .repositories
                    .get(name)
                    .and_then(|repository| repository.blobs.get(digest));
                content.map_or_else(
                    || not_found("BLOB_UNKNOWN"),
                    |content| blob(content.clone(), digest),
                )
            }
            Route::Referrers { name, digest } => self.referrers(request, name, digest),
            Route::Tags { name } => self.tags(request, name),
        }
    }

    fn manifest(&self, request: &Parts, name: &str, reference: &str) -> Plan {
        let Some(repository) = self.repositories.get(name) else {
            return not_found("NAME_UNKNOWN");
        };
        let digest = repository.tags.get(reference).map_or(reference, String::as_str);
        match repository.manifests.get(digest) {
            Some(manifest) if accepts(request, &manifest.media_type) => {
                Plan::addressed(manifest.bytes.clone().into(), &manifest.media_type, digest)
            }
            Some(_) | None => not_found("MANIFEST_UNKNOWN"),
        }
    }

    fn storage(&self, request: &Parts, digest: &str) -> Plan {
        let forbidden = |why: &str| Plan::error(StatusCode::FORBIDDEN, "DENIED", why);
        if let Some(signature) = query_values(request.uri.query(), "sig").first() {
            if request.headers.contains_key(header::AUTHORIZATION) {
                let why = "only one authentication mechanism is allowed";
                return Plan::error(StatusCode::BAD_REQUEST, "UNSUPPORTED", why);
            }
            match self.presigned.get(signature) {
                Some(expires) if Instant::now() < *expires => {}
                _ => return forbidden("the signature is unknown or has expired"),
            }
        }
        let mut repositories = self.repositories.values();
        match repositories.find_map(|repository| repository.content(digest)) {
            Some(content) => blob(content, digest),
            None => not_found("BLOB_UNKNOWN"),
        }
    }

    fn token(&mut self, request: &Parts) -> Plan {
        let authorization = text(&request.headers, &header::AUTHORIZATION);
        let user = authorization.map(|value| self.access.basic_user(value));
        let Some(user) = user.map_or(Some(None), |user| user.map(Some)) else {
            return Plan::error(
                StatusCode::UNAUTHORIZED,
                "UNAUTHORIZED",
                "wrong user name or password",
            );
        };
        let scopes = query_values(request.uri.query(), "scope");
        let token = self.access.issue(user, &scopes, &self.repositories);
        let answer = json!({
            "token": token.value,
            "access_token": token.value,
            "expires_in": self.access.token_life.as_secs(),
        });
        Plan::json(&answer, "application/json")
    }

    fn referrers(&self, request: &Parts, name: &str, subject: &str) -> Plan {
        let Some(repository) = self.repositories.get(name).filter(|_| self.referrers_supported) else {
            return not_found("NAME_UNKNOWN");
        };
        let wanted = query_values(request.uri.query(), "artifactType")
            .into_iter()
            .next();
        let manifests: Vec<Value> = repository
            .manifests
            .iter()
            .filter_map(|(digest, manifest)| referrer(digest, manifest, subject))
            .filter(|entry| {
                wanted
                    .as_ref()
                    .is_none_or(|wanted| entry["artifactType"] == wanted.as_str())
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests });
        let mut plan = Plan::json(&index, INDEX_TYPE);
        if wanted.is_some() {
            plan.set(HeaderName::from_static("oci-filters-applied"), "artifactType");
        }
        plan
    }

    fn tags(&self, request: &Parts, name: &str) -> Plan {
        let Some(repository) = self.repositories.get(name) else {
            return not_found("NAME_UNKNOWN");
        };
        let parameter = |name| query_values(request.uri.query(), name).into_iter().next();
        let last = parameter("last").unwrap_or_default();
        let count = parameter("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
        let after = repository.tags.keys().filter(|tag| **tag > last);
        let tags: Vec<&String> = after.clone().take(count).collect();
        let mut plan = Plan::json(&json!({ "name": name, "tags": tags }), "application/json");
        if let Some(last) = tags.last().filter(|_| after.count() > tags.len()) {
            plan.set(
                header::LINK,
                &format!("</v2/{name}/tags/list?n={count}&last={last}>; rel=\"next\""),
            );
        }
        plan
    }
}

impl Repository {
    fn content(&self, digest: &str) -> Option<crate::content::Content> {
        let manifest = self
            .manifests
            .get(digest)
            .map(|manifest| manifest.bytes.clone().into());
        self.blobs.get(digest).cloned().or(manifest)
    }
}

fn ping() -> Plan {
    let mut plan = Plan::json(&json!({}), "application/json");
    plan.set(
        HeaderName::from_static("docker-distribution-api-version"),
        "registry/2.0",
    );
    plan
}

fn blob(content: crate::content::Content, digest: &str) -> Plan {
    Plan::addressed(content, "application/octet-stream", digest).with_ranges()
}

fn not_found(code: &str) -> Plan {
    Plan::error(StatusCode::NOT_FOUND, code, "not here")
}

/// No `Accept` accepts all. Qualities are not weighed.
fn accepts(request: &Parts, media_type: &str) -> bool {
    let values: Vec<_> = request.headers.get_all(header::ACCEPT).iter().collect();
    let texts = values
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let mut types = texts.map(|item| item.split(';').next().unwrap_or_default().trim());
    values.is_empty() || types.any(|item| matches!(item, "*/*" | "application/*") || item == media_type)
}

/// The descriptor of a manifest whose subject is `subject` (distribution-spec, "listing referrers").
fn referrer(digest: &str, manifest: &Manifest, subject: &str) -> Option<Value> {
    let parsed: BTreeMap<String, Value> = serde_json::from_slice(&manifest.bytes).ok()?;
    if parsed.get("subject")?.get("digest")?.as_str()? != subject {
        return None;
    }
    let config = || parsed.get("config").and_then(|config| config.get("mediaType"));
    let mut entry = json!({
        "mediaType": manifest.media_type,
        "digest": digest,
        "size": manifest.bytes.len(),
        "artifactType": parsed.get("artifactType").or_else(config),
    });
    if let (Some(annotations), Some(object)) = (parsed.get("annotations"), entry.as_object_mut()) {
        object.insert("annotations".to_owned(), annotations.clone());
    }
    Some(entry)
}
