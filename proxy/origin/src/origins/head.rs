//! What the head of an answer says of a content.

use darter_types::Digest;
use http::HeaderMap;

use crate::headers;

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
