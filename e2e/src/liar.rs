//! A mirror that lies: manifests and configurations as they are, and every layer with one wrong bit in its middle and
//! the right length.
//!
//! What clients do with it is why Darter never sends a byte that is not linked.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::command::run;
use crate::netns::Namespace;
use crate::process::Process;

const START: Duration = Duration::from_secs(30);

/// Reads a registry's directory; logs a line for each request to standard output, by one write each: requests come
/// at the same time.
const SERVER: &str = r#"
import http.server, json, os, sys
host, port, store = sys.argv[1], int(sys.argv[2]), sys.argv[3] + "/docker/registry/v2"

def read(path):
    with open(store + path, "rb") as file:
        return file.read()

def blob(digest):
    digits = digest.split(":")[1]
    return bytearray(read(f"/blobs/sha256/{digits[:2]}/{digits}/data"))

class Liar(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.split("?")[0]
        os.write(1, f"{self.command} {path}\n".encode())
        if path == "/v2/":
            return self.answer(200, "application/json", b"{}")
        parts = path.split("/")
        try:
            if parts[-2] == "blobs":
                body = blob(parts[-1])
                if len(body) > 10000:
                    body[len(body) // 2] ^= 1
                return self.answer(200, "application/octet-stream", body)
            digest = parts[-1]
            if ":" not in digest:
                name = "/".join(parts[-4:-2])
                digest = read(f"/repositories/{name}/_manifests/tags/{digest}/current/link").decode()
            body = blob(digest)
            kind = json.loads(body).get("mediaType", "application/vnd.oci.image.manifest.v1+json")
            self.answer(200, kind, body, digest)
        except (OSError, IndexError):
            self.answer(404, "application/json", b"{}")

    do_HEAD = do_GET

    def answer(self, status, kind, body, digest=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer((host, port), Liar).serve_forever()
"#;

/// A running liar.
#[derive(Debug)]
pub struct Liar {
    process: Process,
}

impl Liar {
    /// Starts it on `host` at `127.0.0.1:port`, over a registry's directory.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(host: &Namespace, port: u16, store: &Path, log: &Path) -> Result<Self> {
        let mut server = host.command("python3");
        server
            .args(["-c", SERVER, "127.0.0.1", &port.to_string()])
            .arg(store);
        let mut process = Process::start("a mirror that lies", &mut server, log)?;
        let url = format!("http://127.0.0.1:{port}/v2/");
        process.ready(START, || {
            run(host
                .command("curl")
                .args(["--silent", "--fail", "--output", "/dev/null", &url]))
            .ok()
        })?;
        Ok(Self { process })
    }

    /// How many blobs were asked of it.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn blobs_asked(&self) -> Result<usize> {
        let log = self.process.log()?;
        Ok(log
            .lines()
            .filter(|line| line.starts_with("GET ") && line.contains("/blobs/"))
            .count())
    }
}
