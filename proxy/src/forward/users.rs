//! Who may use the forward proxy: users from a file, by `Proxy-Authorization` (RFC 9110 section 11.7, RFC 7617).
//!
//! What must hold: passwords are neither kept nor compared as they are, only their keyed hashes, and comparing takes
//! as long for a wrong one as for a right one; they are never passed on.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use darter_service::secret_file::{self, SecretFileError};
use http::HeaderMap;
use http::header::PROXY_AUTHORIZATION;
use thiserror::Error;

use crate::access::keyed_hash;

/// Users that are looked at for each request.
const USERS_MAX: usize = 1024;

/// Why a file of users cannot be used.
#[derive(Debug, Error)]
pub enum UsersError {
    /// It cannot be read, or others can read it.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// A line is not `user:password`.
    #[error("{path}: line {line} is not user:password")]
    Line {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
    },
    /// There is nobody in it, or too many are.
    #[error("{path}: {count} users are in it; 1 to {USERS_MAX} may be")]
    Count {
        /// The file.
        path: String,
        /// Users in it.
        count: usize,
    },
}

/// Who may use the proxy.
pub(super) struct Users {
    key: [u8; 32],
    hashes: Vec<[u8; 32]>,
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Users({})", self.hashes.len())
    }
}

impl Users {
    /// Reads a file: one `user:password` a line; empty lines and those that begin with `#` count for nothing.
    pub(super) fn read(path: &Path, key: [u8; 32]) -> Result<Self, UsersError> {
        let bytes = secret_file::read(path)?;
        let path = path.display().to_string();
        let mut hashes = Vec::new();
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            if line.first() == Some(&b':') || !line.contains(&b':') {
                let line = index + 1;
                return Err(UsersError::Line { path, line });
            }
            hashes.push(keyed_hash(&key, line));
        }
        let count = hashes.len();
        if !(1..=USERS_MAX).contains(&count) {
            return Err(UsersError::Count { path, count });
        }
        Ok(Self { key, hashes })
    }

    /// Whether a request shows one of them.
    pub(super) fn know(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(PROXY_AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return false;
        };
        let shown = value.to_str().ok().and_then(|text| text.split_once(' '));
        let Some((_, encoded)) = shown.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic")) else {
            return false;
        };
        let Ok(pair) = STANDARD.decode(encoded.trim()) else {
            return false;
        };
        let hash = keyed_hash(&self.key, &pair);
        // All of them, whichever fits: neither who is known nor how much was right shows in the time that it takes.
        self.hashes
            .iter()
            .fold(false, |known, other| known | same(&hash, other))
    }
}

fn same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use http::HeaderValue;

    use super::*;

    fn file(dir: &tempfile::TempDir, text: &str, mode: u32) -> PathBuf {
        let path = dir.path().join("users");
        write(&path, text).unwrap();
        set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn only_who_is_in_the_file_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(&dir, "# who\n\nanna:se:cret\r\nbert:\n", 0o600);
        let users = Users::read(&path, [1; 32]).unwrap();
        let knows = |values: &[String]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(PROXY_AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            users.know(&headers)
        };
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        assert!(knows(&[basic("anna:se:cret")]));
        assert!(knows(&[basic("anna:se:cret").replace("Basic", "bAsIc")]));
        assert!(knows(&[basic("bert:")]));
        for wrong in [
            "anna:se:cre",
            "anna:",
            "Anna:se:cret",
            "anna",
            "",
            "carl:x",
            "# who",
        ] {
            assert!(!knows(&[basic(wrong)]), "{wrong}");
        }
        assert!(!knows(&[]));
        assert!(!knows(&[basic("bert:"), basic("bert:")]));
        assert!(!knows(&["Basic %%%".to_owned()]));
        assert!(!knows(&[basic("bert:").replace("Basic", "Bearer")]));
        assert!(!format!("{users:?}").contains("anna"));
    }

    #[test]
    fn files_that_cannot_be_used_say_why_but_not_what() {
        let dir = tempfile::tempdir().unwrap();
        for (text, mode, expected) in [
            ("anna:canary\ncanary\n", 0o600, "line 2"),
            (":canary\n", 0o600, "line 1"),
            ("# nobody\n", 0o600, "0 users"),
            ("anna:canary\n", 0o644, "chmod 600"),
        ] {
            let problem = Users::read(&file(&dir, text, mode), [1; 32])
                .unwrap_err()
                .to_string();
            assert!(problem.contains(expected), "{problem}");
            assert!(!problem.contains("canary"), "{problem}");
        }
    }

    /// Samples of each kind: a few that show that it works, and as many as a leak would show in.
    fn samples() -> u32 {
        darter_testkit::cases(1000, 100_000)
    }

    /// Welch's t between the times that two questions take, asked in an order that nothing follows, each made anew where the
    /// one before lay: two places in memory would show as well. Times of a moment when the machine did something else are
    /// left out, as many of either kind (Reparaz and others, "Dude, is my code constant time?").
    #[expect(clippy::disallowed_methods, reason = "times are what is looked at")]
    fn welch<T>(make: impl Fn(bool) -> T, ask: impl Fn(&T) -> bool) -> f64 {
        let mut times: [Vec<f64>; 2] = Default::default();
        let mut random = 1u64;
        for _ in 0..2 * samples() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let first = random & 1 == 1;
            let question = make(first);
            let began = std::time::Instant::now();
            let known = std::hint::black_box(ask(&question));
            times[usize::from(first)].push(began.elapsed().as_secs_f64() * 1e9);
            assert!(!known);
        }
        let kept = times.map(|mut all| {
            all.sort_by(f64::total_cmp);
            all.truncate(all.len() * 9 / 10);
            all
        });
        let moments = kept.map(|all| {
            let count = std::time::Duration::from_secs(all.len() as u64).as_secs_f64();
            let mean = all.iter().sum::<f64>() / count;
            let variance = all.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
            (mean, variance / count)
        });
        let [(one, first), (other, second)] = moments;
        (one - other) / (first + second).sqrt().max(f64::MIN_POSITIVE)
    }

    /// With few samples it says nothing about time: `DARTER_CASES=full` does.
    #[test]
    fn how_much_of_a_password_was_right_does_not_show_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let password = "p".repeat(64);
        let path = file(&dir, &format!("anna:{password}\n"), 0o600);
        let users = Users::read(&path, [1; 32]).unwrap();
        let shown = |pair: String| {
            let mut headers = HeaderMap::new();
            let value = format!("Basic {}", STANDARD.encode(pair));
            headers.insert(PROXY_AUTHORIZATION, HeaderValue::from_str(&value).unwrap());
            headers
        };
        let (at_first, at_last) = (
            format!("anna:x{}", &password[1..]),
            format!("anna:{}x", &password[1..]),
        );
        let make = |first| shown(if first { at_first.clone() } else { at_last.clone() });
        let t = welch(make, |headers| users.know(headers));
        // What a comparison that stops at the first difference looks like.
        let secret = [7u8; 4096];
        let differs = |first| {
            let mut shown = secret;
            shown[if first { 0 } else { 4095 }] = 0;
            shown
        };
        let stops = |shown: &[u8; 4096]| {
            let mut pairs = shown.iter().zip(std::hint::black_box(&secret));
            pairs.all(|(one, other)| std::hint::black_box(one == other))
        };
        let leak = welch(differs, stops);
        if samples() > 1000 {
            assert!(leak.abs() > 4.5, "a leak would not be seen: {leak}");
            assert!(t.abs() < 4.5, "t = {t}");
        }
    }
}
