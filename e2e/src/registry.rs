//! A real registry: `docker-registry` over a directory, and what it says about the bytes that it sent.
//!
//! Images are pushed to a writable one on loopback; tests serve the same directory read-only from a namespace.
//! Payload is counted from the registry's own log, one line a finished response; the interface counter of
//! its namespace is the independent witness.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::clock::{pause, until};
use crate::command::command;
use crate::netns::Namespace;
use crate::process::Process;

/// The port of a registry in a namespace.
const PORT: u16 = 5000;
/// Far longer than a start takes.
const START: Duration = Duration::from_secs(30);

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    host: Option<Namespace>,
    process: Process,
    address: String,
}

/// How a registry is reached, and by whom.
#[derive(Debug, Clone, Copy)]
pub struct Door<'d> {
    /// On all addresses of its host.
    pub port: u16,
    /// Certificate and key; plain HTTP without.
    pub tls: Option<(&'d Path, &'d Path)>,
    /// The users that it serves, a file of `htpasswd` with bcrypt; everybody without.
    pub users: Option<&'d Path>,
}

impl Default for Door<'_> {
    fn default() -> Self {
        Self {
            port: PORT,
            tls: None,
            users: None,
        }
    }
}

/// One finished response, from the log.
#[derive(Debug, Clone, Deserialize)]
pub struct Response {
    /// `GET`, `HEAD`, …
    #[serde(rename = "http.request.method")]
    pub method: String,
    /// Path and query.
    #[serde(rename = "http.request.uri")]
    pub uri: String,
    /// Status code.
    #[serde(rename = "http.response.status", default)]
    pub status: u16,
    /// Bytes that the handler wrote, also when the client left before the end; for a `HEAD` none of them was sent.
    #[serde(rename = "http.response.written", default)]
    written: u64,
    msg: String,
}

impl Response {
    /// Bytes of the body that were sent.
    pub fn sent(&self) -> u64 {
        if self.method == "HEAD" { 0 } else { self.written }
    }
}

impl Registry {
    /// A writable registry over `store` on a free port of loopback, for pushing.
    ///
    /// # Errors
    /// When it does not start.
    pub fn writer(store: &Path, work: &Path) -> Result<Self> {
        let door = Door::default();
        let config = configure(store, work, "registry-writer", Some("127.0.0.1:0"), &door)?;
        let program = command(["setpriv", "--pdeathsig", "KILL", "docker-registry"]);
        Self::start(program, None, &config, door.port)
    }

    /// A read-only registry over `store` on `host`, port 5000.
    ///
    /// # Errors
    /// When it does not start.
    pub fn serve(host: &Namespace, store: &Path, work: &Path) -> Result<Self> {
        Self::serve_at(host, store, work, &Door::default())
    }

    /// The same behind another door.
    ///
    /// # Errors
    /// When it does not start.
    pub fn serve_at(host: &Namespace, store: &Path, work: &Path, door: &Door<'_>) -> Result<Self> {
        let name = format!("registry-{}", host.name());
        let config = configure(store, work, &name, None, door)?;
        let program = host.command("docker-registry");
        Self::start(program, Some(host.clone()), &config, door.port)
    }

    fn start(mut program: Command, host: Option<Namespace>, config: &Path, port: u16) -> Result<Self> {
        // The S3 driver reads this variable even when it is not used, and panics on some values.
        program.arg("serve").arg(config).env_remove("AWS_CA_BUNDLE");
        let log = config.with_extension("log");
        let mut process = Process::start("docker-registry", &mut program, &log)?;
        let bound = process.ready(START, || listening(&std::fs::read_to_string(&log).ok()?))?;
        let address = match &host {
            Some(host) => format!("{}:{port}", host.address()),
            None => bound,
        };
        Ok(Self {
            host,
            process,
            address,
        })
    }

    /// `host:port` at which clients reach it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its URL without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The host that it runs on.
    ///
    /// # Errors
    /// When it runs on loopback.
    pub fn host(&self) -> Result<&Namespace> {
        self.host
            .as_ref()
            .context("this registry is not on a host of a network")
    }

    /// The process, for faults.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Responses that are finished, in the order in which they ended. Wait for [`Self::settle`] before.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn responses(&self) -> Result<Vec<Response>> {
        Ok(responses(&self.process.log()?))
    }

    /// Body bytes sent for each digest (blobs and manifests asked for by digest), by all responses.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn sent_by_digest(&self) -> Result<BTreeMap<String, u64>> {
        Ok(by_digest(&self.responses()?))
    }

    /// Body bytes sent in all.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn payload_sent(&self) -> Result<u64> {
        Ok(self.responses()?.iter().map(Response::sent).sum())
    }

    /// Waits until nothing has left the host for half a second, so that the log holds every response.
    ///
    /// # Errors
    /// When it goes on sending, or is not in a namespace.
    pub fn settle(&self) -> Result<()> {
        let host = self.host()?;
        until("the registry to be quiet", Duration::from_secs(60), || {
            let before = (host.traffic()?.sent, self.process.log()?.len());
            pause(Duration::from_millis(500));
            // Keep-alive probes and ARP are a few hundred bytes; a response is logged when it ends.
            let after = (host.traffic()?.sent, self.process.log()?.len());
            Ok((after.0 - before.0 < 2_000 && after.1 == before.1).then_some(()))
        })
    }
}

/// Writes the configuration `work/NAME.yml`. A registry with a `writer` address takes pushes there.
fn configure(
    store: &Path,
    work: &Path,
    name: &str,
    writer: Option<&str>,
    door: &Door<'_>,
) -> Result<PathBuf> {
    let address = writer.map_or_else(|| format!("0.0.0.0:{}", door.port), str::to_owned);
    let mut http = serde_json::json!({ "addr": address, "secret": "end-to-end" });
    if let (Some((certificate, key)), Some(http)) = (door.tls, http.as_object_mut()) {
        let tls = serde_json::json!({ "certificate": certificate, "key": key });
        http.insert("tls".to_owned(), tls);
    }
    let mut config = serde_json::json!({
        "version": "0.1",
        "log": { "level": "info", "formatter": "json", "accesslog": { "disabled": true } },
        "storage": {
            "filesystem": { "rootdirectory": store },
            "maintenance": { "readonly": { "enabled": writer.is_none() } },
        },
        "http": http,
    });
    if let (Some(users), Some(config)) = (door.users, config.as_object_mut()) {
        let auth = serde_json::json!({ "htpasswd": { "realm": "end-to-end", "path": users } });
        config.insert("auth".to_owned(), auth);
    }
    let path = work.join(format!("{name}.yml"));
    std::fs::write(&path, serde_json::to_string_pretty(&config)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// The address in the log's line `listening on …`.
fn listening(log: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        msg: String,
    }
    let mut messages = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Line>(line).ok());
    messages.find_map(|line| Some(line.msg.strip_prefix("listening on ")?.to_owned()))
}

fn responses(log: &str) -> Vec<Response> {
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Response>(line).ok());
    lines
        .filter(|response| response.msg.starts_with("response completed"))
        .collect()
}

fn by_digest(responses: &[Response]) -> BTreeMap<String, u64> {
    let mut sent = BTreeMap::new();
    for response in responses {
        let path = response.uri.split('?').next().unwrap_or_default();
        if let Some(digest) = path.rsplit('/').next().filter(|last| last.starts_with("sha256:")) {
            *sent.entry(digest.to_owned()).or_insert(0) += response.sent();
        }
    }
    sent
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = concat!(
        r#"{"level":"info","msg":"listening on 127.0.0.1:39423","time":"2026-01-01T00:00:00Z"}"#,
        "\n",
        r#"{"http.request.method":"GET","http.request.uri":"/v2/a/blobs/sha256:aa?ns=x","http.response.status":200,"http.response.written":5,"level":"info","msg":"response completed"}"#,
        "\n",
        r#"{"http.request.method":"HEAD","http.request.uri":"/v2/a/blobs/sha256:aa","http.response.status":200,"http.response.written":9,"level":"info","msg":"response completed"}"#,
        "\n",
        r#"{"http.request.method":"GET","http.request.uri":"/v2/a/blobs/sha256:aa","http.response.status":206,"http.response.written":2,"level":"info","msg":"response completed"}"#,
        "\n",
        r#"{"http.request.method":"GET","http.request.uri":"/v2/a/blobs/sha256:bb","level":"info","msg":"authorized request"}"#,
        "\nnot json\n",
    );

    #[test]
    fn the_log_tells_the_address() {
        assert_eq!(listening(LOG).as_deref(), Some("127.0.0.1:39423"));
        assert_eq!(listening("starting"), None);
    }

    #[test]
    fn sent_bytes_are_added_up_by_digest() {
        let found = responses(LOG);
        assert_eq!(
            found.iter().map(|response| response.status).collect::<Vec<_>>(),
            [200, 200, 206]
        );
        assert_eq!(by_digest(&found), BTreeMap::from([("sha256:aa".to_owned(), 7)]));
    }
}
