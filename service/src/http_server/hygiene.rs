//! Requests whose head can be read in two ways: they are refused, so that nobody before or behind reads them otherwise.
//!
//! Pure. The HTTP library refuses what breaks its grammar (several lengths, folded lines, an encoding before HTTP/1.1), and
//! [`Strict`](super::Strict) lines that do not end as they must; this is the rest. Sources: RFC 9112 sections 3.2 and 6.3,
//! RFC 9110 sections 7.8 and 9.3.1.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{Method, Version};

/// Whether a head means one thing only; an error says what is wrong with it. The connection has to end then.
///
/// # Errors
/// What is wrong.
pub fn check(parts: &Parts) -> Result<(), &'static str> {
    let hosts = parts.headers.get_all(HOST).iter().count();
    if hosts > 1 {
        return Err("the request names its host twice");
    }
    if hosts == 0 && parts.version == Version::HTTP_11 {
        return Err("the request does not name its host");
    }
    let bare = parts.method == Method::GET || parts.method == Method::HEAD || parts.method == Method::CONNECT;
    if bare && parts.headers.contains_key(TRANSFER_ENCODING) {
        return Err("a request of this method has no transfer coding");
    }
    if parts.method == Method::CONNECT && parts.headers.contains_key(CONTENT_LENGTH) {
        return Err("CONNECT has no body");
    }
    Ok(())
}

/// The same for a server that passes nothing on, and speaks no other protocol: whoever goes on in one before it was agreed
/// to would have what he sends read as requests.
///
/// # Errors
/// What is wrong.
pub fn check_final(parts: &Parts) -> Result<(), &'static str> {
    check(parts)?;
    if parts.headers.contains_key(UPGRADE) {
        return Err("no other protocol is spoken here: ask without Upgrade");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn verdict(method: &str, version: Version, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().method(method).version(version).uri("/v2/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap().into_parts().0).is_ok()
    }

    #[test]
    fn heads_that_mean_two_things_are_refused() {
        let (old, new) = (Version::HTTP_10, Version::HTTP_11);
        let host = ("host", "a");
        assert!(verdict("GET", new, &[host]));
        assert!(verdict("GET", old, &[]));
        assert!(verdict("GET", new, &[host, ("content-length", "3")]));
        assert!(verdict("PUT", new, &[host, ("transfer-encoding", "chunked")]));
        assert!(!verdict("GET", new, &[]));
        assert!(!verdict("GET", new, &[host, ("host", "b")]));
        assert!(!verdict("GET", new, &[host, host]));
        assert!(!verdict("HEAD", new, &[host, ("transfer-encoding", "chunked")]));
        assert!(!verdict(
            "CONNECT",
            new,
            &[host, ("transfer-encoding", "chunked")]
        ));
        assert!(!verdict("CONNECT", new, &[host, ("content-length", "1")]));
    }

    #[test]
    fn whoever_passes_nothing_on_speaks_no_other_protocol() {
        let request = Request::get("/v2/").header("host", "a").header("upgrade", "h2c");
        let parts = request.body(()).unwrap().into_parts().0;
        assert!(check(&parts).is_ok());
        assert!(check_final(&parts).is_err());
    }
}
