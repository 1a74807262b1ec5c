//! The pages that people see in a browser: files that are part of the program, and nothing else.
//!
//! They know nothing and may be read by anybody; what they show comes from [`crate::api`], which asks who it is. What must hold:
//! the policy of content lets a page run and load only what is served here, and turn no text into markup.

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sha2::{Digest as _, Sha256};

/// What a browser lets the pages do. No script or style may stand in markup, and no string may become markup or a script.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";
/// A browser asks each time whether it is still so, and is answered 304: a new release is shown at once.
const CACHE: &str = "no-cache";
/// Bytes of the hash that tells two versions of a file apart.
const TAG_BYTES: usize = 16;

/// One file.
struct File {
    /// Its path below `manager/console`.
    name: &'static str,
    bytes: &'static [u8],
}

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(File { name: $name, bytes: include_bytes!(concat!("../console/", $name)) }),*]
    };
}

/// The page that all others are shown in.
const INDEX: &str = "index.html";
const FILES: &[File] = &files![
    "index.html",
    "icon.svg",
    "base.css",
    "parts.css",
    "api.js",
    "dialog.js",
    "dom.js",
    "form.js",
    "live.js",
    "main.js",
    "notice.js",
    "pages.js",
    "parts.js",
    "roles.js",
    "secret.js",
    "scope.js",
    "time.js",
    "pages/account.js",
    "pages/audit.js",
    "pages/cluster-form.js",
    "pages/cluster.js",
    "pages/clusters.js",
    "pages/configuration.js",
    "pages/join-tokens.js",
    "pages/members.js",
    "pages/overview.js",
    "pages/placement.js",
    "pages/sign-in.js",
    "pages/tokens.js",
    "pages/users.js",
];

/// The page at `/`, and its files below `/console/`.
pub(crate) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, file| {
        let place = match file.name {
            INDEX => "/".to_owned(),
            name => format!("/console/{name}"),
        };
        let tag = tag(file.bytes);
        router.route(
            &place,
            get(move |headers: HeaderMap| async move { answer(file, tag.as_ref(), &headers) }),
        )
    })
}

fn tag(bytes: &[u8]) -> Option<HeaderValue> {
    let hash = Sha256::digest(bytes);
    let text = URL_SAFE_NO_PAD.encode(hash.get(..TAG_BYTES)?);
    HeaderValue::from_str(&format!("\"{text}\"")).ok()
}

fn answer(file: &'static File, tag: Option<&HeaderValue>, asked: &HeaderMap) -> Response {
    let known = tag.is_some_and(|tag| is_known(tag.as_bytes(), asked));
    let mut response = match known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => file.bytes.into_response(),
    };
    let headers = response.headers_mut();
    let constant = |name: HeaderName, value: &'static str| (name, HeaderValue::from_static(value));
    headers.extend([
        constant(CONTENT_TYPE, content_type(file.name)),
        constant(CACHE_CONTROL, CACHE),
        constant(CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        constant(X_CONTENT_TYPE_OPTIONS, "nosniff"),
        constant(X_FRAME_OPTIONS, "DENY"),
        constant(
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        constant(
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ]);
    if let Some(tag) = tag {
        headers.insert(ETAG, tag.clone());
    }
    response
}

/// Whether the browser has it already. Proxies on the way that compress make a tag weak: that is the same file still.
fn is_known(tag: &[u8], asked: &HeaderMap) -> bool {
    let values = asked.get_all(IF_NONE_MATCH).iter();
    let mut tags = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    tags.any(|one| {
        let one = one.trim_ascii();
        one == b"*" || one.strip_prefix(b"W/").unwrap_or(one) == tag
    })
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.') {
        Some((_, "html")) => "text/html; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn below(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
            match entry.path().is_dir() {
                true => below(&entry.path(), &format!("{name}/"), found),
                false => drop(found.insert(name)),
            }
        }
    }

    #[test]
    fn every_file_is_served_and_all_are_light() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("console");
        let mut found = BTreeSet::new();
        below(&folder, "", &mut found);
        let served: BTreeSet<String> = FILES.iter().map(|file| file.name.to_owned()).collect();
        assert_eq!(found, served);
        let bytes: usize = FILES.iter().map(|file| file.bytes.len()).sum();
        assert!(bytes < 300_000, "{bytes} bytes, all pages together");
        for file in FILES {
            assert_ne!(
                content_type(file.name),
                "application/octet-stream",
                "{}",
                file.name
            );
            let text = std::str::from_utf8(file.bytes).unwrap();
            for markup in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
            ] {
                assert!(!text.contains(markup), "{}: {markup}", file.name);
            }
        }
    }

    #[test]
    fn a_file_that_the_browser_has_is_not_sent_again() {
        let asked =
            |value: &'static str| HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static(value))]);
        for (value, known) in [
            ("\"one\"", true),
            ("W/\"one\"", true),
            ("\"two\", \"one\"", true),
            ("*", true),
            ("\"two\"", false),
            ("one", false),
        ] {
            assert_eq!(is_known(b"\"one\"", &asked(value)), known, "{value}");
        }
        assert!(!is_known(b"\"one\"", &HeaderMap::new()));
    }
}
