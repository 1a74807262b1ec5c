//! Reading the head of an answer: what may be passed on, and whether what it says fits what was asked.
//!
//! Pure. A registry's answer is a stranger's: lengths and ranges are believed only where they fit.

use std::time::Duration;

use darter_types::ByteRange;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// What of a registry's head is passed on. Anything else (cookies, connection matters, where blobs are stored) stays here.
const RELAYED: [&str; 21] = [
    "accept-ranges",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "docker-content-digest",
    "docker-distribution-api-version",
    "docker-ratelimit-source",
    "etag",
    "last-modified",
    "link",
    "oci-filters-applied",
    "oci-namespace",
    "oci-subject",
    "ratelimit-limit",
    "ratelimit-remaining",
    "retry-after",
    "warning",
    "www-authenticate",
];

/// The longest that a registry can make us wait.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// How long it makes us wait by a `Retry-After` that says nothing of use.
const RETRY_AFTER_LEAST: Duration = Duration::from_secs(1);

/// What `Docker-Content-Digest` is called.
pub(crate) const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// The headers that may be passed on.
pub(crate) fn relayed(headers: &HeaderMap) -> HeaderMap {
    let pairs = headers
        .iter()
        .filter(|(name, _)| RELAYED.contains(&name.as_str()));
    let mut kept = HeaderMap::new();
    for (name, value) in pairs {
        kept.append(name.clone(), value.clone());
    }
    kept
}

/// A header's only value, as text.
pub(crate) fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.all(|value| value == first).then(|| first.to_str().ok())?
}

/// A number of digits alone: no sign, no space.
fn digits(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// `Content-Length`.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    digits(text(headers, header::CONTENT_LENGTH)?)
}

/// `Content-Type` without parameters, in lower case.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = text(headers, header::CONTENT_TYPE)?;
    let essence = value.split(';').next().unwrap_or_default().trim();
    (!essence.is_empty()).then(|| essence.to_ascii_lowercase())
}

/// The entity tag, where it is a strong one: equal tags are equal bytes (RFC 9110, section 8.8.1).
pub(crate) fn strong_etag(headers: &HeaderMap) -> Option<&str> {
    text(headers, header::ETAG).filter(|tag| tag.starts_with('"'))
}

/// Whether it is a web page, as captive portals answer.
pub(crate) fn is_html(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|media| media == "text/html" || media == "application/xhtml+xml")
}

/// Whether the body is encoded, so that offsets mean nothing.
pub(crate) fn is_encoded(headers: &HeaderMap) -> bool {
    let identity =
        |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity") || value.is_empty();
    !headers.get_all(header::CONTENT_ENCODING).iter().all(identity)
}

/// How long `Retry-After` asks for, within bounds (RFC 9110, section 10.2.3). A date is measured from the answer's own
/// `Date`, since clocks differ; what says nothing counts as [`RETRY_AFTER_LEAST`].
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?;
    let asked = value.to_str().ok().and_then(|value| {
        digits(value)
            .map(Duration::from_secs)
            .or_else(|| until(headers, value))
    });
    Some(asked.unwrap_or(RETRY_AFTER_LEAST).min(RETRY_AFTER_MAX))
}

/// From the answer to a date; one that is over counts as the least.
fn until(headers: &HeaderMap, date: &str) -> Option<Duration> {
    let then = httpdate::parse_http_date(date).ok()?;
    let now = httpdate::parse_http_date(text(headers, header::DATE)?).ok()?;
    let left = then.duration_since(now).unwrap_or_default();
    Some(left.max(RETRY_AFTER_LEAST))
}

/// `Content-Range` of a 206: which bytes of how many.
pub(crate) fn content_range(headers: &HeaderMap) -> Option<(ByteRange, u64)> {
    let (unit, rest) = text(headers, header::CONTENT_RANGE)?.split_once(' ')?;
    let (range, total) = rest.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total) = (digits(first)?, digits(last)?, digits(total)?);
    let fits = unit.eq_ignore_ascii_case("bytes") && first <= last && last < total;
    fits.then(|| (ByteRange::new(first, last.saturating_add(1)), total))
}

/// The value of `Range` for bytes from `start`, up to `end` where one is given. None where everything is wanted.
pub(crate) fn range_value(start: u64, end: Option<u64>) -> Option<HeaderValue> {
    let text = match end {
        None if start == 0 => return None,
        None => format!("bytes={start}-"),
        Some(end) => format!("bytes={start}-{}", end.saturating_sub(1)),
    };
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(name: &'static str, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        headers
    }

    #[test]
    fn lengths() {
        let length = |values: &[&str]| content_length(&with("content-length", values));
        assert_eq!(length(&["12"]), Some(12));
        assert_eq!(length(&["12", "12"]), Some(12));
        for wrong in [
            &["12", "13"][..],
            &["+1"],
            &["-1"],
            &["1 2"],
            &["99999999999999999999"],
            &["0x1"],
        ] {
            assert_eq!(length(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn ranges() {
        let range = |value: &str| content_range(&with("content-range", &[value]));
        assert_eq!(range("bytes 0-9/10"), Some((ByteRange::new(0, 10), 10)));
        assert_eq!(range("BYTES 5-5/10"), Some((ByteRange::new(5, 6), 10)));
        for wrong in [
            "bytes 0-10/10",
            "bytes 5-4/10",
            "bytes 0-9/*",
            "bytes */10",
            "items 0-9/10",
            "bytes=0-9/10",
            "bytes 0-9",
            "bytes 0-18446744073709551615/18446744073709551615",
        ] {
            assert_eq!(range(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn waits_are_bounded() {
        let wait = |value: &str| retry_after(&with("retry-after", &[value]));
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("99999"), Some(RETRY_AFTER_MAX));
        assert_eq!(wait("soon"), Some(RETRY_AFTER_LEAST));
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn dates_are_measured_by_the_registrys_own_clock() {
        let wait = |date: &'static str, until: &str| {
            let mut headers = with("retry-after", &[until]);
            headers.insert(header::DATE, HeaderValue::from_static(date));
            retry_after(&headers)
        };
        let now = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(
            wait(now, "Sun, 06 Nov 1994 08:49:57 GMT"),
            Some(Duration::from_secs(20))
        );
        assert_eq!(
            wait(now, "Sunday, 06-Nov-94 08:49:57 GMT"),
            Some(Duration::from_secs(20))
        );
        assert_eq!(wait(now, "Fri, 31 Dec 2100 23:59:59 GMT"), Some(RETRY_AFTER_MAX));
        assert_eq!(
            wait(now, "Sun, 06 Nov 1994 08:40:00 GMT"),
            Some(RETRY_AFTER_LEAST)
        );
        assert_eq!(
            wait("today", "Sun, 06 Nov 1994 08:49:57 GMT"),
            Some(RETRY_AFTER_LEAST)
        );
    }

    #[test]
    fn weak_tags_say_nothing_of_bytes() {
        let tag = |value: &str| strong_etag(&with("etag", &[value])).map(str::to_owned);
        assert_eq!(tag("\"a\"").as_deref(), Some("\"a\""));
        assert_eq!(tag("W/\"a\""), None);
        assert_eq!(tag("a"), None);
    }

    #[test]
    fn encodings_and_pages_are_recognised() {
        assert!(is_encoded(&with("content-encoding", &["gzip"])));
        assert!(is_encoded(&with("content-encoding", &["identity", "zstd"])));
        assert!(!is_encoded(&with("content-encoding", &["Identity"])));
        assert!(is_html(&with("content-type", &["Text/HTML; charset=utf-8"])));
        assert!(!is_html(&with(
            "content-type",
            &["application/vnd.oci.image.index.v1+json"]
        )));
    }

    #[test]
    fn cookies_and_locations_stay_here() {
        let mut headers = with("set-cookie", &["canary"]);
        headers.insert(
            header::LOCATION,
            HeaderValue::from_static("https://storage/?sig=canary"),
        );
        headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic"));
        headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        let kept = relayed(&headers);
        assert_eq!(kept.len(), 2);
        assert_eq!(kept.get_all(header::WWW_AUTHENTICATE).iter().count(), 2);
    }

    proptest! {
        #[test]
        fn a_range_that_is_written_is_read_back(first: u64, more in 0u64..1000, behind in 1u64..1000) {
            let last = first.saturating_add(more).min(u64::MAX - 1);
            let (first, total) = (first.min(last), last.saturating_add(behind));
            let headers = with("content-range", &[&format!("bytes {first}-{last}/{total}")]);
            prop_assert_eq!(content_range(&headers), Some((ByteRange::new(first, last + 1), total)));
        }

        #[test]
        fn never_panics(value in "[ -~]{0,40}") {
            let headers = with("content-range", &[&value]);
            if let Some((range, total)) = content_range(&headers) {
                prop_assert!(range.start < range.end && range.end <= total);
            }
            let _ = retry_after(&with("retry-after", &[&value]));
            let _ = content_length(&with("content-length", &[&value]));
        }
    }
}
