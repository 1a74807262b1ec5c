//! nginx over a directory: the yardstick for serving, and a registry that costs next to nothing.
//!
//! Blobs lie under the paths of the distribution API; nothing of it but reading by digest is there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::clock::until;
use crate::netns::Namespace;
use crate::process::Process;

/// Its port.
pub(super) const PORT: u16 = 5000;
const START: Duration = Duration::from_secs(30);

/// A running nginx.
#[derive(Debug)]
pub(super) struct Nginx {
    /// `host:port` for clients.
    pub(super) address: String,
    process: Process,
    log: PathBuf,
}

/// What nginx answered so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Served {
    /// Finished requests.
    pub(super) requests: u64,
    /// Of those, the ones that got a body.
    pub(super) gets: u64,
    /// Bytes of bodies.
    pub(super) bytes: u64,
}

impl Nginx {
    /// Serves `root` from `host`, with its own files in `folder`.
    pub(super) fn start(host: &Namespace, root: &Path, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let (file, log) = (folder.join("nginx.conf"), folder.join("served"));
        std::fs::write(&file, configuration(root, folder, &log))?;
        let mut program = host.command("nginx");
        program.arg("-c").arg(&file);
        let mut process = Process::start("nginx", &mut program, &folder.join("nginx.log"))?;
        let address = format!("{}:{PORT}", host.address());
        let url = format!("http://{address}/v2/");
        process.ready(START, || host.get(&url).ok())?;
        Ok(Self {
            address,
            process,
            log,
        })
    }

    /// The master's process id; workers are its children.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Its URL without a path.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it answered, once `requests` of them got a body.
    pub(super) fn served_at_least(&self, gets: u64) -> Result<Served> {
        until("nginx to write its log", Duration::from_secs(20), || {
            let served = self.served()?;
            Ok((served.gets >= gets).then_some(served))
        })
    }

    /// What it answered so far, `/v2/` not counted.
    pub(super) fn served(&self) -> Result<Served> {
        let text = std::fs::read_to_string(&self.log);
        Ok(parse(&text.with_context(|| {
            format!("cannot read {}", self.log.display())
        })?))
    }
}

impl std::ops::Sub for Served {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            requests: self.requests - earlier.requests,
            gets: self.gets - earlier.gets,
            bytes: self.bytes - earlier.bytes,
        }
    }
}

/// One line an answer: method, bytes of the body, path.
fn parse(log: &str) -> Served {
    let mut served = Served::default();
    for line in log.lines() {
        let mut words = line.split(' ');
        let (method, bytes, path) = (words.next(), words.next(), words.next());
        if path.is_none_or(|path| path == "/v2/") {
            continue;
        }
        served.requests += 1;
        if method == Some("GET") {
            served.gets += 1;
            served.bytes += bytes.and_then(|bytes| bytes.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    served
}

fn configuration(root: &Path, folder: &Path, log: &Path) -> String {
    let (root, folder, log) = (root.display(), folder.display(), log.display());
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("  {kind}_temp_path {folder}/{kind};\n"))
        .collect();
    format!(
        "daemon off;
user root;
worker_processes auto;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
{temporary}  log_format served '$request_method $body_bytes_sent $uri';
  access_log {log} served;
  default_type application/octet-stream;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  server {{
    listen 0.0.0.0:{PORT} backlog=4096;
    root {root};
    location = /v2/ {{ default_type application/json; return 200 '{{}}'; }}
  }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_added_up() {
        let log = "GET 2 /v2/\nHEAD 0 /v2/a/blobs/sha256:1\nGET 10 /v2/a/blobs/sha256:1\nGET 5 /v2/a/blobs/sha256:2\n";
        let served = parse(log);
        assert_eq!(
            served,
            Served {
                requests: 3,
                gets: 2,
                bytes: 15
            }
        );
        assert_eq!((served - served).bytes, 0);
    }
}
