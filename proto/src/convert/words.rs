//! The parts that many messages share: names, texts, runs, origins, states.

use darter_types::{
    Algorithm, ChainState, ContentKind, Digest, HostId, OriginLocator, PieceLayout, PieceNumber, PieceRun,
    TaskId,
};

use super::ConvertError;
use crate::limits::{RUNS_MAX, STATES_MAX, TEXT_BYTES_MAX};
use crate::pb::scheduler::v1 as pb;

/// Refuses more than `bound` of something.
pub(super) fn at_most(field: &'static str, found: usize, bound: usize) -> Result<(), ConvertError> {
    if found <= bound {
        return Ok(());
    }
    Err(ConvertError::TooMuch {
        field,
        found: found as u64,
        bound: bound as u64,
    })
}

/// Converts a list whose length was bounded first.
pub(super) fn list<A, B>(
    field: &'static str,
    items: Vec<A>,
    bound: usize,
    convert: impl FnMut(A) -> Result<B, ConvertError>,
) -> Result<Vec<B>, ConvertError> {
    at_most(field, items.len(), bound)?;
    items.into_iter().map(convert).collect()
}

pub(super) fn malformed(field: &'static str, what: impl ToString) -> ConvertError {
    ConvertError::Malformed {
        field,
        what: what.to_string(),
    }
}

/// Parses a name of `darter-types`.
pub(super) fn parsed<T>(field: &'static str, text: &str) -> Result<T, ConvertError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    at_most(field, text.len(), TEXT_BYTES_MAX)?;
    text.parse().map_err(|error: T::Err| malformed(field, error))
}

pub(super) fn task(text: &str) -> Result<TaskId, ConvertError> {
    parsed("task", text)
}

/// A host's name, or nothing where the text is empty.
pub(super) fn optional_host(field: &'static str, text: &str) -> Result<Option<HostId>, ConvertError> {
    if text.is_empty() {
        return Ok(None);
    }
    parsed(field, text).map(Some)
}

/// Free text: bounded, without control characters, for it is written to logs and pages.
pub(super) fn text(field: &'static str, text: String) -> Result<String, ConvertError> {
    at_most(field, text.len(), TEXT_BYTES_MAX)?;
    if text.chars().any(char::is_control) {
        return Err(malformed(field, "control characters are not accepted"));
    }
    Ok(text)
}

/// An address as `host:port`, the host a name or an address.
pub(super) fn address(field: &'static str, address: String) -> Result<String, ConvertError> {
    let address = text(field, address)?;
    let port = address
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty() && !host.contains(char::is_whitespace))
        .and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none_or(|port| port == 0) {
        return Err(malformed(field, format!("{address:?} is not host:port")));
    }
    Ok(address)
}

/// A content's length in bytes.
pub(super) fn length(length: u64) -> Result<u64, ConvertError> {
    if length > PieceLayout::LENGTH_MAX {
        return Err(ConvertError::TooMuch {
            field: "length",
            found: length,
            bound: PieceLayout::LENGTH_MAX,
        });
    }
    Ok(length)
}

/// A number of pieces or borders.
pub(super) fn piece_number(field: &'static str, number: u32) -> Result<u32, ConvertError> {
    at_most(field, number as usize, PieceLayout::PIECES_MAX as usize)?;
    Ok(number)
}

pub(super) fn runs(field: &'static str, runs: Vec<pb::PieceRun>) -> Result<Vec<PieceRun>, ConvertError> {
    list(field, runs, RUNS_MAX, |run| {
        if run.count == 0 {
            return Err(malformed(field, "a run without pieces"));
        }
        let end = u64::from(run.first) + u64::from(run.count);
        if end > u64::from(PieceLayout::PIECES_MAX) {
            return Err(ConvertError::TooMuch {
                field,
                found: end,
                bound: u64::from(PieceLayout::PIECES_MAX),
            });
        }
        Ok(PieceRun {
            first: run.first,
            count: run.count,
        })
    })
}

pub(super) fn runs_to(runs: Vec<PieceRun>) -> Vec<pb::PieceRun> {
    let convert = |run: PieceRun| pb::PieceRun {
        first: run.first,
        count: run.count,
    };
    runs.into_iter().map(convert).collect()
}

/// The locator; an unknown kind is refused, for a guess would ask the registry for something else.
pub(super) fn origin(origin: pb::Origin) -> Result<OriginLocator, ConvertError> {
    let kind = match origin.kind() {
        pb::ContentKind::Blob => ContentKind::Blob,
        pb::ContentKind::Manifest => ContentKind::Manifest,
        pb::ContentKind::Unspecified => {
            return Err(malformed("origin.kind", format!("unknown kind {}", origin.kind)));
        }
    };
    Ok(OriginLocator {
        registry: parsed("origin.registry", &origin.registry)?,
        repository: parsed("origin.repository", &origin.repository)?,
        kind,
        digest: parsed::<Digest>("origin.digest", &origin.digest)?,
    })
}

pub(super) fn required_origin(given: Option<pb::Origin>) -> Result<OriginLocator, ConvertError> {
    origin(given.ok_or(ConvertError::Missing { field: "origin" })?)
}

pub(super) fn origin_to(origin: OriginLocator) -> pb::Origin {
    let kind = match origin.kind {
        ContentKind::Blob => pb::ContentKind::Blob,
        ContentKind::Manifest => pb::ContentKind::Manifest,
    };
    pb::Origin {
        registry: origin.registry.into(),
        repository: origin.repository.into(),
        kind: kind.into(),
        digest: origin.digest.to_string(),
    }
}

/// The hash function of a task's chain.
fn algorithm(task: &TaskId) -> Algorithm {
    let (TaskId::Content(digest) | TaskId::Url(digest)) = task;
    digest.algorithm()
}

/// The states of borders `first`, `first + 1`, ….
pub(super) fn states(task: &TaskId, first: u32, bytes: &[u8]) -> Result<Vec<ChainState>, ConvertError> {
    let algorithm = algorithm(task);
    let each = algorithm.digest_bytes();
    at_most("states", bytes.len().div_ceil(each), STATES_MAX)?;
    let end = (first as usize).saturating_add(bytes.len() / each);
    at_most("states", end, PieceLayout::PIECES_MAX as usize)?;
    let wrong = || {
        malformed(
            "states",
            format!("{} bytes are not a multiple of {each}", bytes.len()),
        )
    };
    bytes
        .chunks(each)
        .map(|state| ChainState::from_bytes(algorithm, state).ok_or_else(wrong))
        .collect()
}

/// What attests pieces.
pub(super) fn sums(
    field: &'static str,
    sums: Vec<pb::Attestation>,
) -> Result<Vec<(PieceNumber, Digest)>, ConvertError> {
    list(field, sums, STATES_MAX, |sum| {
        let digest = Digest::new(Algorithm::Sha256, &sum.sha256);
        let digest = digest.ok_or_else(|| malformed(field, "not 32 bytes"))?;
        Ok((piece_number(field, sum.piece)?, digest))
    })
}

pub(super) fn sums_to(sums: Vec<(PieceNumber, Digest)>) -> Vec<pb::Attestation> {
    let one = |(piece, sum): (PieceNumber, Digest)| pb::Attestation {
        piece,
        sha256: sum.hash().to_vec(),
    };
    sums.into_iter().map(one).collect()
}

pub(super) fn states_to(states: Vec<ChainState>) -> Vec<u8> {
    states.into_iter().flat_map(ChainState::to_bytes).collect()
}

/// A measure: finite and not negative.
pub(super) fn measure(field: &'static str, value: f64) -> Result<f64, ConvertError> {
    if !value.is_finite() || value < 0.0 {
        return Err(malformed(
            field,
            format!("{value} is not a finite number from 0 on"),
        ));
    }
    Ok(value)
}
