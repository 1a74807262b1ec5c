//! Paths of the distribution specification, and the two of this origin's own: `/token` and
//! `/storage/<digest>` (where redirects lead).

use super::fault::Kind;

/// What a path means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Ping,
    Token,
    Manifest { name: String, reference: String },
    Blob { name: String, digest: String },
    Referrers { name: String, digest: String },
    Tags { name: String },
    Upload { name: String, id: Option<String> },
    Storage { digest: String },
    Unknown,
}

impl Route {
    pub(super) fn parse(path: &str) -> Self {
        let path = path.replace("%3A", ":").replace("%3a", ":");
        if let Some(digest) = path.strip_prefix("/storage/") {
            return Self::Storage {
                digest: digest.to_owned(),
            };
        }
        match path.as_str() {
            "/v2" | "/v2/" => return Self::Ping,
            "/token" => return Self::Token,
            _ => {}
        }
        let Some(rest) = path.strip_prefix("/v2/") else {
            return Self::Unknown;
        };
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Self::Tags {
                name: name.to_owned(),
            };
        }
        let split = |word: &str| {
            rest.rsplit_once(word)
                .map(|(name, last)| (name.to_owned(), last.to_owned()))
        };
        if let Some((name, reference)) = split("/manifests/") {
            return Self::Manifest { name, reference };
        }
        if let Some((name, id)) = split("/blobs/uploads/") {
            let id = Some(id).filter(|id| !id.is_empty());
            return Self::Upload { name, id };
        }
        if let Some((name, digest)) = split("/blobs/") {
            return Self::Blob { name, digest };
        }
        split("/referrers/").map_or(Self::Unknown, |(name, digest)| Self::Referrers { name, digest })
    }

    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Manifest { name, .. } | Self::Blob { name, .. } => Some(name),
            Self::Referrers { name, .. } | Self::Tags { name } | Self::Upload { name, .. } => Some(name),
            Self::Ping | Self::Token | Self::Storage { .. } | Self::Unknown => None,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Blob { .. } | Self::Storage { .. } => Kind::Blob,
            Self::Manifest { .. } => Kind::Manifest,
            Self::Token => Kind::Token,
            Self::Ping | Self::Referrers { .. } | Self::Tags { .. } | Self::Upload { .. } | Self::Unknown => {
                Kind::Other
            }
        }
    }
}

/// The decoded values of a query's parameter, in order.
pub(super) fn query_values(query: Option<&str>, name: &str) -> Vec<String> {
    let pairs = query
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='));
    pairs
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| decode(value))
        .collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |digit: Option<u8>| char::from(digit.unwrap_or(b'?')).to_digit(16);
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => match (hex(rest.next()), hex(rest.next())) {
                (Some(high), Some(low)) => u8::try_from(high * 16 + low).unwrap_or(b'?'),
                _ => b'?',
            },
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_have_slashes_and_look_like_endpoints() {
        let blob = Route::parse("/v2/a/blobs/b/blobs/sha256:00");
        assert_eq!(
            blob,
            Route::Blob {
                name: "a/blobs/b".into(),
                digest: "sha256:00".into()
            }
        );
        assert_eq!(
            Route::parse("/v2/a/b/tags/list"),
            Route::Tags { name: "a/b".into() }
        );
        assert_eq!(Route::parse("/v2/"), Route::Ping);
        assert_eq!(Route::parse("/v3/a"), Route::Unknown);
        assert_eq!(
            Route::parse("/storage/sha256%3A00"),
            Route::Storage {
                digest: "sha256:00".into()
            }
        );
    }

    #[test]
    fn query_values_are_decoded() {
        let query = Some("scope=repository%3Aa%2Fb%3Apull&x=1&scope=c+d");
        assert_eq!(query_values(query, "scope"), ["repository:a/b:pull", "c d"]);
        assert!(query_values(None, "scope").is_empty());
    }
}
