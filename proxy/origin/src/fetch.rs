//! The bytes of one content as they come from its registry.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use darter_types::{ByteRange, ContentKind, Digest, OriginLocator};
use http::{HeaderMap, StatusCode};

use crate::body::AnswerBody;
use crate::budget::Reservation;
use crate::error::OriginError;
use crate::exchange::Answer;
use crate::headers;
use crate::version::Version;

/// The most that a manifest may have (distribution specification, "Pushing manifests").
pub(crate) const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Bytes that are thrown away when a registry ignores `Range`; beyond that the caller decides.
pub(crate) const SKIP_BYTES_MAX: u64 = 1024 * 1024;

/// A content, or a part of it, that is being read. Dropping it ends the request.
#[derive(Debug)]
pub struct Fetch {
    /// Bytes of the whole content, as the registry has it.
    pub length: u64,
    /// The bytes that [`next`](Self::next) gives, in order. It can end earlier than what was asked.
    pub range: ByteRange,
    /// Its media type, where the registry told, in lower case and without parameters.
    pub media_type: Option<String>,
    body: Source,
    registry: String,
    /// What the registry calls these bytes.
    etag: Option<String>,
    /// The registry sends the whole content, whatever was asked.
    whole: bool,
    /// Bytes still to be thrown away.
    skip: u64,
    /// Bytes still to be given.
    left: u64,
}

#[derive(Debug)]
enum Source {
    Coming(Box<AnswerBody>),
    /// It is here: its length was not told, so it was read.
    Here {
        bytes: Bytes,
        _room: Reservation,
    },
}

/// What was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) locator: &'a OriginLocator,
    pub(crate) start: u64,
    pub(crate) end: Option<u64>,
    /// Up to where bytes are of use beyond `end`, should the registry send the whole content.
    pub(crate) useful: Option<u64>,
    /// Bytes that may be thrown away then, in front of `start`.
    pub(crate) skip_max: u64,
    /// Bytes of the whole content, where somebody else told them: for registries that do not.
    pub(crate) length: Option<u64>,
    /// It is asked for by a range, though all of it is wanted.
    pub(crate) ranged: bool,
}

impl<'a> Wanted<'a> {
    /// Exactly these bytes.
    pub(crate) fn exactly(locator: &'a OriginLocator, start: u64, end: Option<u64>) -> Self {
        Self {
            locator,
            start,
            end,
            useful: end,
            skip_max: SKIP_BYTES_MAX,
            length: None,
            ranged: false,
        }
    }
}

impl Fetch {
    /// Takes the answer's word only where it fits what was asked; else the reason.
    pub(crate) fn new(wanted: Wanted<'_>, answer: Answer) -> Result<Self, String> {
        let Answer {
            status,
            headers,
            body,
        } = answer;
        fits(wanted.locator, &headers)?;
        let (sent, length) = match status {
            StatusCode::PARTIAL_CONTENT => part(wanted, &headers)?,
            StatusCode::OK => {
                let length = headers::content_length(&headers)
                    .or(wanted.length)
                    .ok_or("it does not tell the length of a content")?;
                (ByteRange::new(0, length), length)
            }
            other => return Err(format!("it answered {other} to a request for a content")),
        };
        manifest_fits(wanted.locator.kind, length)?;
        let whole = status == StatusCode::OK;
        let end = if whole { wanted.useful } else { wanted.end };
        let range = sent.intersect(ByteRange::new(wanted.start, end.unwrap_or(length)));
        let skip = wanted.start - sent.start;
        if wanted.start > length {
            return Err(format!(
                "it has {length} bytes of a content that was asked from byte {}",
                wanted.start
            ));
        }
        if skip > wanted.skip_max {
            return Err(format!(
                "it ignores Range, and {skip} bytes would be read for nothing"
            ));
        }
        Ok(Self {
            length,
            range,
            media_type: headers::media_type(&headers),
            registry: wanted.locator.registry.to_string(),
            etag: headers::strong_etag(&headers).map(str::to_owned),
            body: Source::Coming(Box::new(body)),
            whole,
            skip,
            left: range.len(),
        })
    }

    /// A content that was read because its length was not told.
    pub(crate) fn here(
        locator: &OriginLocator,
        headers: &HeaderMap,
        bytes: Bytes,
        room: Reservation,
    ) -> Self {
        let length = bytes.len() as u64;
        Self {
            length,
            range: ByteRange::new(0, length),
            media_type: headers::media_type(headers),
            registry: locator.registry.to_string(),
            etag: headers::strong_etag(headers).map(str::to_owned),
            body: Source::Here { bytes, _room: room },
            whole: true,
            skip: 0,
            left: length,
        }
    }

    /// The strong entity tag of what is sent.
    pub(crate) fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// Whether its bytes may follow those that came of this version; they are part of it then.
    pub fn goes_on(&self, version: &Version) -> bool {
        let fits = version.fits(self.etag());
        if fits {
            version.taken(self.etag());
            version.begun();
        }
        fits
    }

    /// Whether the registry sends the whole content, be it that everything was asked, or that it ignores `Range`.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Bytes in front of the range that are read and thrown away.
    pub(crate) fn skips(&self) -> u64 {
        self.skip
    }

    /// The next bytes, or `None` when the range is complete: never more than the range. Cancel safe.
    ///
    /// # Errors
    /// [`OriginError::Cut`] when the body ends before the range does, [`OriginError::Silent`] when nothing comes. Nothing
    /// comes after an error: ask again from where it broke.
    pub async fn next(&mut self) -> Result<Option<Bytes>, OriginError> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, OriginError>> {
        while self.left > 0 {
            let next = match &mut self.body {
                Source::Coming(body) => ready!(body.poll_next(cx))?,
                Source::Here { bytes, .. } => Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty()),
            };
            let Some(mut bytes) = next else {
                return Poll::Ready(Err(self.cut()));
            };
            let skipped = at_most(bytes.len(), self.skip);
            let _ = bytes.split_to(skipped);
            self.skip -= skipped as u64;
            bytes.truncate(at_most(bytes.len(), self.left));
            self.left -= bytes.len() as u64;
            if !bytes.is_empty() {
                return Poll::Ready(Ok(Some(bytes)));
            }
        }
        Poll::Ready(Ok(None))
    }
}

impl Fetch {
    /// The error for what ends here and should not.
    pub(crate) fn cut(&self) -> OriginError {
        OriginError::Cut {
            registry: self.registry.clone(),
            received: match &self.body {
                Source::Coming(body) => body.received(),
                Source::Here { .. } => self.range.len() - self.left,
            },
        }
    }
}

fn at_most(length: usize, max: u64) -> usize {
    usize::try_from(max).map_or(length, |max| length.min(max))
}

/// Whether an answer sends a content without telling how long it is.
pub(crate) fn is_untold(answer: &Answer) -> bool {
    answer.status == StatusCode::OK && headers::content_length(&answer.headers).is_none()
}

/// Whether a head can belong to the content.
pub(crate) fn fits(locator: &OriginLocator, headers: &HeaderMap) -> Result<(), String> {
    if headers::is_encoded(headers) {
        return Err("it encodes contents (Content-Encoding) although it was told not to".to_owned());
    }
    if locator.kind == ContentKind::Manifest && headers::is_html(headers) {
        return Err("it sends a web page instead of a manifest; is there a portal in between?".to_owned());
    }
    let told = headers::text(headers, headers::DIGEST).and_then(|text| text.parse::<Digest>().ok());
    match told {
        Some(told) if told.algorithm() == locator.digest.algorithm() && told != locator.digest => {
            Err(format!("it has {told} under the digest {}", locator.digest))
        }
        _ => Ok(()),
    }
}

/// Whether a manifest is as small as it must be.
pub(crate) fn manifest_fits(kind: ContentKind, length: u64) -> Result<(), String> {
    if kind == ContentKind::Manifest && length > MANIFEST_BYTES_MAX {
        return Err(format!(
            "a manifest of {length} bytes is more than the {MANIFEST_BYTES_MAX} that are allowed"
        ));
    }
    Ok(())
}

/// The range of a 206 and the whole length, where they fit.
fn part(wanted: Wanted<'_>, headers: &HeaderMap) -> Result<(ByteRange, u64), String> {
    if headers::range_value(wanted.start, wanted.end).is_none() && !wanted.ranged {
        return Err("it answered 206 although everything was asked".to_owned());
    }
    let (range, total) =
        headers::content_range(headers).ok_or("its Content-Range is missing, wrong or without a total")?;
    let end = wanted.end.map_or(total, |end| end.min(total));
    if range.start != wanted.start || range.end > end {
        return Err(format!(
            "it sent the bytes {range} of {total} where {}..{end} were asked",
            wanted.start
        ));
    }
    match headers::content_length(headers) {
        Some(length) if length != range.len() => {
            Err(format!("it sends {length} bytes for the range {range}"))
        }
        _ => Ok((range, total)),
    }
}
