//! Strict percent-decoding (RFC 3986 section 2.1) of path parts and query values.

use super::RouteError;

/// Decodes one part of a path or one value of a query.
///
/// # Errors
/// A `%` without two hexadecimal digits, or a decoded byte that a name can never hold: a separator, a
/// control character, a `%` again, or anything outside ASCII.
pub(super) fn decode(text: &str) -> Result<String, RouteError> {
    let mut decoded = String::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let plain = match byte {
            b'%' => {
                let high = bytes.next().and_then(hexadecimal);
                let low = bytes.next().and_then(hexadecimal);
                high.zip(low).map(|(high, low)| high << 4 | low)
            }
            other => Some(other),
        };
        let plain = plain.filter(|byte| byte.is_ascii_graphic() && !b"/\\%?#".contains(byte));
        decoded.push(char::from(plain.ok_or(RouteError::Encoding)?));
    }
    Ok(decoded)
}

fn hexadecimal(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// The parameters of a query: name, value (both as sent) and the whole text of each.
pub(super) fn parameters(query: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    query.split('&').filter(|raw| !raw.is_empty()).map(|raw| {
        let (name, value) = raw.split_once('=').unwrap_or((raw, ""));
        (name, value, raw)
    })
}
