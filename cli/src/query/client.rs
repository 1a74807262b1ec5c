//! The client of the scheduler's Query service.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use darter_proto::limits::MESSAGE_BYTES_MAX;
use darter_proto::pb::scheduler::v1 as pb;
use darter_proto::pb::scheduler::v1::query_client::QueryClient;
use darter_service::net::{Connector, TokioNetwork};
use darter_service::tls::{CertificateRole, Protocol, TlsConfig};
use darter_types::TaskId;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::exit::Usage;

/// A scheduler that does not answer within this is as good as gone, for somebody who waits at a terminal.
const CONNECT: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(10);
/// Lines asked for at a time.
const PAGE: u32 = 1000;
/// Most pages that are asked for: a scheduler keeps 200,000 tasks by default.
const PAGES_MAX: usize = 1000;

/// A connection to one scheduler.
#[derive(Debug)]
pub(crate) struct Client {
    inner: QueryClient<Channel>,
}

/// Runs a short conversation.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?
        .block_on(work)
}

impl Client {
    /// Connects to `host:port`, with a certificate where one is named.
    pub(crate) async fn connect(address: &str, tls: &TlsConfig) -> Result<Self> {
        let wrong = || Usage(format!("--address {address}: write HOST:PORT"));
        let files = tls.files()?;
        let scheme = if files.is_some() { "https" } else { "http" };
        let origin = format!("{scheme}://{address}").parse().map_err(|_| wrong())?;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| wrong())?;
        let tls = files.map(|files| files.connector(Protocol::Http2)).transpose()?;
        let tls = tls.map(|tls| tls.to(CertificateRole::Scheduler));
        let connector = Connector::new(Arc::new(TokioNetwork), tls);
        let endpoint = endpoint.origin(origin).connect_timeout(CONNECT).timeout(ANSWER);
        let channel = endpoint.connect_with_connector(connector).await;
        let channel = channel.with_context(|| {
            format!("no scheduler answers at {address}: is it running? name another with --address")
        })?;
        Ok(Self {
            inner: QueryClient::new(channel).max_decoding_message_size(4 * MESSAGE_BYTES_MAX),
        })
    }

    /// All tasks, by name.
    pub(super) async fn tasks(&mut self) -> Result<Vec<pb::TaskLine>> {
        let mut tasks: Vec<pb::TaskLine> = Vec::new();
        for _ in 0..PAGES_MAX {
            let after = tasks.last().map(|last| last.task.clone()).unwrap_or_default();
            let request = pb::ListTasksRequest { limit: PAGE, after };
            let page = self
                .inner
                .list_tasks(request)
                .await
                .map_err(refused)?
                .into_inner()
                .tasks;
            if page.is_empty() {
                break;
            }
            tasks.extend(page);
        }
        Ok(tasks)
    }

    /// One task by its whole name.
    pub(super) async fn task(&mut self, id: &str) -> Result<pb::GetTaskResponse> {
        let request = pb::GetTaskRequest { task: id.to_owned() };
        Ok(self.inner.get_task(request).await.map_err(refused)?.into_inner())
    }

    /// All hosts, by name.
    pub(crate) async fn hosts(&mut self) -> Result<Vec<pb::HostLine>> {
        let mut hosts: Vec<pb::HostLine> = Vec::new();
        for _ in 0..PAGES_MAX {
            let after = hosts.last().map(|last| last.host.clone()).unwrap_or_default();
            let request = pb::ListHostsRequest { limit: PAGE, after };
            let answer = self
                .inner
                .list_hosts(request)
                .await
                .map_err(refused)?
                .into_inner();
            let goes_on = answer.truncated && !answer.hosts.is_empty();
            hosts.extend(answer.hosts);
            // One of an earlier release says it all at once, whatever it is asked.
            if !goes_on {
                return Ok(hosts);
            }
        }
        bail!("the scheduler knows more than {} hosts", hosts.len())
    }

    /// The whole name of the only task that begins with `beginning`; the algorithm may be left out.
    pub(super) async fn complete(&mut self, beginning: &str) -> Result<String> {
        if beginning.parse::<TaskId>().is_ok() {
            return Ok(beginning.to_owned());
        }
        let known = self.tasks().await?.into_iter().map(|line| line.task);
        let mut matching = known.filter(|task| begins(task, beginning));
        match (matching.next(), matching.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => bail!("no task begins with {beginning:?}: `darter scheduler tasks` lists them"),
            (Some(one), Some(other)) => bail!("{beginning:?} is not clear: {one} or {other}?"),
        }
    }
}

fn begins(task: &str, beginning: &str) -> bool {
    let hex = task.split_once(':').map_or(task, |(_, hex)| hex);
    task.starts_with(beginning) || hex.starts_with(beginning)
}

/// The scheduler's own words, without gRPC's around them.
fn refused(status: Status) -> anyhow::Error {
    match status.code() {
        Code::NotFound | Code::InvalidArgument => anyhow!("{}", status.message()),
        _ => anyhow!(status).context("the scheduler did not answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_found_by_its_beginning() {
        assert!(begins("sha256:abc123", "sha256:abc"));
        assert!(begins("sha256:abc123", "abc"));
        assert!(!begins("sha256:abc123", "bc1"));
    }
}
