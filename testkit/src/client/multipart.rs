//! The parts of a `multipart/byteranges` body (RFC 9110 section 14.6, RFC 2046 section 5.1).

use bytes::Bytes;

use super::find;

/// One part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its headers in order, names in lower case, values without surrounding white space.
    pub headers: Vec<(String, String)>,
    /// Its bytes.
    pub body: Bytes,
}

/// Splits a body at the boundary that its `Content-Type` names. `None` if it is not exactly such a body: another type, a
/// byte before the first boundary or behind the last one.
pub fn parts(content_type: &str, body: &Bytes) -> Option<Vec<Part>> {
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=")?;
    let delimiter = format!("\r\n--{boundary}");
    let mut parts = Vec::new();
    let mut rest = after(body, delimiter.as_bytes())?;
    while rest.as_ref() != b"--\r\n" {
        rest = after(&rest, b"\r\n")?;
        let end = find(&rest, delimiter.as_bytes())?;
        parts.push(part(&rest.slice(..end))?);
        rest = rest.slice(end + delimiter.len()..);
    }
    Some(parts)
}

/// What follows these bytes, if it begins with them.
fn after(bytes: &Bytes, start: &[u8]) -> Option<Bytes> {
    bytes.starts_with(start).then(|| bytes.slice(start.len()..))
}

fn part(bytes: &Bytes) -> Option<Part> {
    let end = find(bytes, b"\r\n\r\n")?;
    let head = std::str::from_utf8(bytes.get(..end)?).ok()?;
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    Some(Part {
        headers: head.split("\r\n").map(header).collect::<Option<_>>()?,
        body: bytes.slice(end + 4..),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_split_and_nothing_else_is_taken_for_them() {
        let kind = "multipart/byteranges; boundary=B";
        let text =
            "\r\n--B\r\nContent-Range: bytes 0-1/9\r\nA: b\r\n\r\nx\n\r\n--B\r\nC: d\r\n\r\n\r\n--B--\r\n";
        let found = parts(kind, &Bytes::from(text)).unwrap();
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            found[0].headers,
            [header("content-range", "bytes 0-1/9"), header("a", "b")]
        );
        assert_eq!(
            (found[0].body.as_ref(), found[1].body.as_ref()),
            (&b"x\n"[..], &b""[..])
        );
        assert_eq!(found.len(), 2);
        assert_eq!(parts("text/plain", &Bytes::from(text)), None);
        for broken in [
            format!("x{text}"),
            format!("{text}x"),
            text.replace("--B--", "--B"),
            text.replace(": d", " d"),
        ] {
            assert_eq!(parts(kind, &Bytes::from(broken.clone())), None, "{broken:?}");
        }
    }
}
