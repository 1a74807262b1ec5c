//! What the head of an answer says of a content.

use darter_types::{Digest, OriginLocator};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::content;
use crate::credentials::Credentials;
use crate::error::OriginError;
use crate::exchange::{Answer, Exchange};
use crate::{fetch, headers};

/// What a registry says about a content without sending it.
#[derive(Clone, Debug)]
pub struct Head {
    /// Its digest: told by the registry, or computed where it sent the manifest.
    pub digest: Option<Digest>,
    /// Bytes, where the registry told.
    pub length: Option<u64>,
    /// Media type in lower case, without parameters.
    pub media_type: Option<String>,
    /// What of the head may be passed on.
    pub headers: HeaderMap,
}

impl Head {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self {
            digest: headers::text(headers, headers::DIGEST).and_then(|text| text.parse().ok()),
            length: headers::content_length(headers),
            media_type: headers::media_type(headers),
            headers: headers::relayed(headers),
        }
    }
}

/// What HEAD told, if that is enough.
pub(super) fn manifest_head(answer: &Answer) -> Option<Head> {
    let head = Head::of(&answer.headers);
    let useful = head.digest.is_some()
        && head.length.is_some()
        && !headers::is_html(&answer.headers)
        && !headers::is_encoded(&answer.headers);
    useful.then_some(head)
}

/// What the answer to a request for one byte tells: addresses are signed for GET alone.
pub(super) async fn probe(
    exchange: &Exchange<'_>,
    locator: &OriginLocator,
    credentials: &Credentials,
) -> Result<Head, OriginError> {
    let mut ask = content(exchange.registry, Method::GET, locator, credentials);
    ask.blob = false;
    ask.headers
        .insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
    let mut answer = exchange.run(&ask, credentials).await?;
    fetch::fits(locator, &answer.headers).map_err(|reason| exchange.unusable(reason))?;
    let mut head = Head::of(&answer.headers);
    if answer.status == StatusCode::PARTIAL_CONTENT {
        head.length = headers::content_range(&answer.headers).map(|(_, total)| total);
        // Read, so that the connection serves the next request.
        answer.body.collect(1).await?;
    }
    Ok(head)
}
