//! The head of an answer: status line and headers, kept verbatim as well.

use bytes::Bytes;

use super::{ClientError, Framing};

/// The head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The bytes as they came, with the empty line.
    pub raw: Bytes,
    /// The status code.
    pub status: u16,
    /// All headers in order, names in lower case, values without surrounding white space.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The first value of this header (name in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn parse(raw: Bytes) -> Result<Self, ClientError> {
        let text = String::from_utf8_lossy(&raw).into_owned();
        let malformed = || ClientError::Malformed(text.clone());
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let mut status_line = lines.next().unwrap_or_default().split(' ');
        if !status_line.next().unwrap_or_default().starts_with("HTTP/1.") {
            return Err(malformed());
        }
        let status = status_line
            .next()
            .and_then(|code| code.parse().ok())
            .ok_or_else(malformed)?;
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        let headers = lines.map(header).collect::<Option<_>>().ok_or_else(malformed)?;
        Ok(Self { raw, status, headers })
    }

    pub(super) fn framing(&self) -> Result<Framing, ClientError> {
        if self
            .header("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
        {
            return Ok(Framing::Chunked);
        }
        let Some(length) = self.header("content-length") else {
            return Ok(Framing::UntilClose);
        };
        length
            .parse()
            .map(Framing::Length)
            .map_err(|_| ClientError::Malformed(length.to_owned()))
    }
}
