//! Bodies of fuzz targets: what registries and token realms send. The unit tests and `cargo xtask fuzz` run them.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{challenge, headers, token};

/// Any bytes as the value of `WWW-Authenticate`, one a line.
///
/// # Panics
/// If a challenge has no realm, or leads to an address with a password in it.
pub fn fuzz_challenge(data: &[u8]) {
    let values = data.split(|byte| *byte == b'\n');
    let values: Vec<HeaderValue> = values
        .filter_map(|line| HeaderValue::from_bytes(line).ok())
        .collect();
    let Some(bearer) = challenge::bearer(&values) else {
        return;
    };
    assert!(!bearer.realm.is_empty(), "{values:?} has no realm");
    if let Some(address) = token::address(&bearer) {
        assert!(
            address.has_host() && address.password().is_none() && address.username().is_empty(),
            "{values:?} leads to {address}"
        );
    }
}

/// Any bytes as the head of an answer, a header a line.
///
/// # Panics
/// If a range is taken that its content does not have, or a pause that is longer than any.
pub fn fuzz_head(data: &[u8]) {
    let mut head = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(64) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default().trim_ascii(),
        );
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            head.append(name, value);
        }
    }
    if let Some((range, total)) = headers::content_range(&head) {
        assert!(
            range.start < range.end && range.end <= total,
            "{head:?} is read as {range} of {total}"
        );
    }
    let pause = headers::retry_after(&head);
    assert!(
        pause.is_none_or(|pause| pause <= headers::RETRY_AFTER_MAX),
        "{head:?} asks for {pause:?}"
    );
    let _ = headers::content_length(&head);
    let _ = headers::media_type(&head);
    let _ = (headers::is_html(&head), headers::is_encoded(&head));
    let kept = headers::relayed(&head);
    assert!(
        !kept.contains_key("set-cookie") && !kept.contains_key("location"),
        "{head:?} is passed on as {kept:?}"
    );
}

/// Any bytes as what a token realm answers.
///
/// # Panics
/// If a token would show in a log.
pub fn fuzz_token(data: &[u8]) {
    if let Some(grant) = token::grant(data) {
        assert!(grant.token.is_sensitive(), "a token that can be seen");
    }
}

#[cfg(test)]
mod tests {
    use darter_testkit::fuzz::check;

    use super::*;

    #[test]
    fn challenges() {
        check("challenge", fuzz_challenge);
    }

    #[test]
    fn heads() {
        check("answer_head", fuzz_head);
    }

    #[test]
    fn tokens() {
        check("token", fuzz_token);
    }
}
