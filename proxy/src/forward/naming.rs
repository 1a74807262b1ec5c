//! Contents of other hosts that a rule finds by their digest in an address, such as the layers at a registry's CDN.
//!
//! Pure. What must hold: a content is known by its digest and by nothing else; what is not named by a digest is not shared
//! (docs/design/forward-proxy.md). The address as the client wrote it, signature and all, is only ever asked, never kept: the
//! *place* is what is left of it without the parameters that sign it, and only as a hash.

use darter_origin::ContentAddress;
use darter_types::{Digest, Repository};
use http::header::AUTHORIZATION;
use http::request::Parts;
use regex::Regex;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::rules::Site;
use crate::mirror::path::{Endpoint, Target, Via};

/// The groups of an expression that name a digest.
pub(super) const DIGEST: &str = "digest";
pub(super) const HEX: &str = "hex";

/// The digest that an expression finds in an address.
pub(super) fn digest_in(expression: &Regex, url: &str) -> Option<Digest> {
    let found = expression.captures(url)?;
    if let Some(digest) = found.name(DIGEST) {
        return digest
            .as_str()
            .replace("%3A", ":")
            .replace("%3a", ":")
            .parse()
            .ok();
    }
    let hex = found.name(HEX)?.as_str();
    let algorithm = match hex.len() {
        64 => "sha256",
        128 => "sha512",
        _ => return None,
    };
    format!("{algorithm}:{hex}").parse().ok()
}

/// Whether an expression can find one.
pub(super) fn names_digest(expression: &Regex) -> [bool; 2] {
    let has = |group| expression.capture_names().flatten().any(|name| name == group);
    [has(DIGEST), has(HEX)]
}

/// The content of that digest which a client asks of a site, and how it does.
pub(super) fn content(
    site: &Site,
    parts: &Parts,
    digest: Digest,
    ignored: &[String],
) -> Option<(Target, ContentAddress)> {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let address = ContentAddress {
        url: Url::parse(&site.url(path)).ok()?,
        authorization: parts.headers.get(AUTHORIZATION).cloned(),
    };
    let target = Target {
        registry: site.registry().parse().ok()?,
        repository: place(site, path, ignored)?,
        endpoint: Endpoint::Blob(digest),
        via: Via::Default,
        query: None,
    };
    Some((target, address))
}

/// Stands for the repository of a content that has none: the same for all addresses that differ in what is ignored alone.
fn place(site: &Site, path_and_query: &str, ignored: &[String]) -> Option<Repository> {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let kept: Vec<&str> = query
        .split('&')
        .filter(|parameter| {
            let name = parameter.split('=').next().unwrap_or_default();
            !parameter.is_empty() && !ignored.iter().any(|ignored| ignored == name)
        })
        .collect();
    let hash = Sha256::digest(site.url(&format!("{path}?{}", kept.join("&"))));
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("address/{hex}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX_64: &str = "0a0b0c0d0e0f0a0b0c0d0e0f0a0b0c0d0e0f0a0b0c0d0e0f0a0b0c0d0e0f0a0b";

    fn found(expression: &str, url: &str) -> Option<String> {
        digest_in(&Regex::new(expression).unwrap(), url).map(|digest| digest.to_string())
    }

    #[test]
    fn digests_are_found_as_the_rule_says() {
        let cdn = r"^https://cdn\.test/sha256/[0-9a-f]{2}/(?<hex>[0-9a-f]+)/data\?";
        let digest = Some(format!("sha256:{HEX_64}"));
        assert_eq!(
            found(cdn, &format!("https://cdn.test/sha256/0a/{HEX_64}/data?sig=x")),
            digest
        );
        let whole = r"/(?<digest>sha256(:|%3A)[0-9a-f]{64})$";
        for colon in [":", "%3A"] {
            assert_eq!(
                found(whole, &format!("https://a.test/x/sha256{colon}{HEX_64}")),
                digest
            );
        }
        // What is no digest, or named by none, is nobody's content.
        for other in ["00", &HEX_64[1..]] {
            assert_eq!(
                found(cdn, &format!("https://cdn.test/sha256/0a/{other}/data?")),
                None
            );
        }
        assert_eq!(found("^https://", &format!("https://cdn.test/{HEX_64}")), None);
    }

    #[test]
    fn a_place_is_an_address_without_what_signs_it() {
        let site = Site::of_authority("cdn.test", true).unwrap();
        let ignored = ["Expires".to_owned(), "Signature".to_owned()];
        let place = |path: &str| place(&site, path, &ignored).unwrap();
        let known = place("/a?v=1");
        for same in [
            "/a?v=1&Signature=x",
            "/a?Expires=9&v=1&Signature=a%3D%26v=2",
            "/a?Signature&v=1&",
        ] {
            assert_eq!(place(same), known, "{same}");
        }
        for other in [
            "/a",
            "/b?v=1",
            "/a?v=2",
            "/a?v=1&signature=x",
            "/a?v=1&xSignature=1",
        ] {
            assert_ne!(place(other), known, "{other}");
        }
        let elsewhere = Site::of_authority("other.test", true).unwrap();
        assert_ne!(super::place(&elsewhere, "/a?v=1", &ignored).unwrap(), known);
        assert!(!known.as_str().contains("v=1"));
    }
}
