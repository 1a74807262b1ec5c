//! What a request asks for. Pure.

use std::path::PathBuf;

use http::Method;
use serde::Deserialize;

/// Longest body: a configuration, and then some.
pub(super) const BODY_BYTES_MAX: usize = 4 << 20;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Info,
    Mount {
        mountpoint: String,
        bootstrap: PathBuf,
        config: String,
    },
    Umount {
        mountpoint: String,
    },
    Metrics {
        id: Option<String>,
    },
    CacheMetrics {
        id: Option<String>,
    },
    Inflight,
    Renew {
        id: String,
        auth: String,
    },
    Start,
    Exit,
    Send,
    TakeOver,
}

impl Call {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Mount { .. } => "mount",
            Self::Umount { .. } => "umount",
            Self::Metrics { .. } => "metrics",
            Self::CacheMetrics { .. } => "cache metrics",
            Self::Inflight => "inflight",
            Self::Renew { .. } => "config",
            Self::Start => "start",
            Self::Exit => "exit",
            Self::Send => "sendfd",
            Self::TakeOver => "takeover",
        }
    }
}

/// Why a request asks for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: u16,
    pub(super) message: String,
}

impl Refused {
    fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }
}

#[derive(Deserialize)]
struct MountBody {
    #[serde(default)]
    fs_type: String,
    source: PathBuf,
    config: String,
}

#[derive(Deserialize)]
struct ConfigBody {
    registry_auth: String,
}

/// Finds out what is asked.
pub(super) fn parse(method: &Method, path: &str, query: Option<&str>, body: &[u8]) -> Result<Call, Refused> {
    let parameter = |name: &str| parameter(query, name);
    let needed = |name: &str| {
        parameter(name).ok_or_else(|| Refused::new(400, format!("the parameter {name} is missing")))
    };
    let call = match (method.as_str(), path) {
        ("GET", "/api/v1/daemon") => Call::Info,
        ("POST", "/api/v1/mount") => {
            let MountBody {
                fs_type,
                source,
                config,
            } = json(body)?;
            if !matches!(fs_type.as_str(), "" | "rafs") {
                return Err(Refused::new(
                    400,
                    "only file systems of the type rafs are mounted",
                ));
            }
            Call::Mount {
                mountpoint: needed("mountpoint")?,
                bootstrap: source,
                config,
            }
        }
        ("DELETE", "/api/v1/mount") => Call::Umount {
            mountpoint: needed("mountpoint")?,
        },
        ("GET", "/api/v1/metrics") => Call::Metrics { id: parameter("id") },
        ("GET", "/api/v1/metrics/blobcache") => Call::CacheMetrics { id: parameter("id") },
        ("GET", "/api/v1/metrics/inflight") => Call::Inflight,
        ("PUT", "/api/v1/config") => {
            let ConfigBody { registry_auth } = json(body)?;
            Call::Renew {
                id: parameter("id").unwrap_or_else(|| "/".to_owned()),
                auth: registry_auth,
            }
        }
        ("PUT", "/api/v1/daemon/start") => Call::Start,
        ("PUT", "/api/v1/daemon/exit") => Call::Exit,
        ("PUT", "/api/v1/daemon/fuse/sendfd") => Call::Send,
        ("PUT", "/api/v1/daemon/fuse/takeover") => Call::TakeOver,
        (_, "/api/v2/blobs") => {
            return Err(Refused::new(501, "fscache is not supported: use the fuse driver"));
        }
        _ => {
            let shown: String = path.chars().take(128).collect();
            return Err(Refused::new(404, format!("there is no {method} {shown}")));
        }
    };
    Ok(call)
}

fn json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refused> {
    serde_json::from_slice(body)
        .map_err(|error| Refused::new(400, format!("the body cannot be read: {error}")))
}

/// A parameter of the query; an empty one is as good as none.
fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let mut pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(found, _)| *found == name)?;
    decode(value).filter(|value| !value.is_empty())
}

/// A form's value as it was before it was encoded.
fn decode(value: &str) -> Option<String> {
    let mut plain = Vec::new();
    let mut rest = value.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match first {
            b'+' => plain.push(b' '),
            b'%' => {
                let digits = std::str::from_utf8(behind.get(..2)?).ok()?;
                let digits =
                    Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
                plain.push(u8::from_str_radix(digits?, 16).ok()?);
                rest = behind.get(2..)?;
            }
            other => plain.push(*other),
        }
    }
    String::from_utf8(plain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &str, target: &str, body: &str) -> Result<Call, Refused> {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        parse(&method.parse().unwrap(), path, query, body.as_bytes())
    }

    #[test]
    fn calls_of_the_snapshotter_are_understood() {
        let mount = r#"{"fs_type":"rafs","source":"/b/image.boot","config":"{}"}"#;
        let expected = Call::Mount {
            mountpoint: "/12".into(),
            bootstrap: "/b/image.boot".into(),
            config: "{}".into(),
        };
        assert_eq!(
            asked("POST", "/api/v1/mount?mountpoint=%2F12", mount).unwrap(),
            expected
        );
        let umount = asked("DELETE", "/api/v1/mount?mountpoint=%2F1+2", "").unwrap();
        assert_eq!(
            umount,
            Call::Umount {
                mountpoint: "/1 2".into()
            }
        );
        let metrics = asked("GET", "/api/v1/metrics?x=1&id=%2F12", "").unwrap();
        assert_eq!(
            metrics,
            Call::Metrics {
                id: Some("/12".into())
            }
        );
        assert_eq!(
            asked("GET", "/api/v1/metrics?id=", "").unwrap(),
            Call::Metrics { id: None }
        );
        let renew = asked("PUT", "/api/v1/config?id=%2F", r#"{"registry_auth":"YQ=="}"#).unwrap();
        assert_eq!(
            renew,
            Call::Renew {
                id: "/".into(),
                auth: "YQ==".into()
            }
        );
        for (target, call) in [
            ("start", Call::Start),
            ("fuse/sendfd", Call::Send),
            ("fuse/takeover", Call::TakeOver),
        ] {
            assert_eq!(
                asked("PUT", &format!("/api/v1/daemon/{target}"), "").unwrap(),
                call
            );
        }
    }

    #[test]
    fn what_is_asked_wrongly_is_refused() {
        for (method, target, body, status) in [
            ("POST", "/api/v1/mount?mountpoint=%2F1", "", 400),
            ("POST", "/api/v1/mount?mountpoint=%2F1", "{}", 400),
            ("POST", "/api/v1/mount", r#"{"source":"b","config":""}"#, 400),
            (
                "POST",
                "/api/v1/mount?mountpoint=%2",
                r#"{"source":"b","config":""}"#,
                400,
            ),
            (
                "POST",
                "/api/v1/mount?mountpoint=%+1",
                r#"{"source":"b","config":""}"#,
                400,
            ),
            (
                "POST",
                "/api/v1/mount?mountpoint=%ff",
                r#"{"source":"b","config":""}"#,
                400,
            ),
            (
                "POST",
                "/api/v1/mount?mountpoint=%2F1",
                r#"{"fs_type":"passthrough_fs","source":"b","config":""}"#,
                400,
            ),
            ("PUT", "/api/v1/config", "[]", 400),
            ("GET", "/api/v1/daemon/start", "", 404),
            ("PUT", "/api/v2/blobs", "{}", 501),
            ("GET", "/", "", 404),
        ] {
            assert_eq!(
                asked(method, target, body).unwrap_err().status,
                status,
                "{method} {target}"
            );
        }
    }
}
