//! A pull through the real runtime, and where its bytes came from.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use darter_service::net::Address;
use tokio::process::Command;
use tokio::time::timeout;

use super::finding::Finding;
use crate::admin;

const CHECK: &str = "pull";
/// A namespace of its own, so that nothing that runs is touched.
const NAMESPACE: &str = "darter-doctor";
const PATIENCE: Duration = Duration::from_secs(300);

/// Pulls `image` with `ctr` by the `hosts.toml` files in `hosts_dir`, and takes it away again.
pub(super) async fn pull(image: &str, hosts_dir: &Path, proxy: &Address, more: &[String]) -> Finding {
    let before = match received(proxy).await {
        Ok(before) => before,
        Err(error) => {
            let seen =
                format!("{image} was not pulled: the metrics of the proxy are not to be had ({error:#})");
            return Finding::fail(CHECK, seen, "start the proxy");
        }
    };
    let hosts_dir = hosts_dir.display().to_string();
    let mut words = vec!["-n", NAMESPACE, "images", "pull", "--hosts-dir", &hosts_dir];
    words.extend(more.iter().map(String::as_str));
    words.push(image);
    let pulled = ctr(&words).await;
    let after = received(proxy).await.unwrap_or_default();
    // Of the runtime's own store, only what nobody else holds goes.
    let _ = ctr(&["-n", NAMESPACE, "images", "rm", "--sync", image]).await;
    judge(image, pulled, &before, &after)
}

fn judge(image: &str, pulled: Result<()>, before: &Sources, after: &Sources) -> Finding {
    if let Err(error) = pulled {
        let advice = "the same with the proxy stopped says whether it is the registry; then see docs/operate/troubleshoot.md";
        return Finding::fail(CHECK, format!("{image}: {error:#}"), advice);
    }
    let grown = after.iter().map(|(source, bytes)| {
        let grown = bytes - before.get(source).copied().unwrap_or(0).min(*bytes);
        (source, grown)
    });
    let told: Vec<String> = grown
        .filter(|(_, bytes)| *bytes > 0)
        .map(|(source, bytes)| format!("{bytes} bytes from {source}"))
        .collect();
    match told.is_empty() {
        false => Finding::ok(
            CHECK,
            format!("{image} was pulled through the proxy: {}", told.join(", ")),
        ),
        true => Finding::warn(
            CHECK,
            format!("{image} was pulled, but no byte of it came through the proxy"),
            "containerd had it already (try another image), or does not ask the mirror (see hosts.toml above)",
        ),
    }
}

async fn ctr(words: &[&str]) -> Result<()> {
    let output = Command::new("ctr").args(words).kill_on_drop(true).output();
    let output = timeout(PATIENCE, output)
        .await
        .with_context(|| format!("ctr did not end within {} s", PATIENCE.as_secs()))?
        .context("ctr cannot be run: is containerd installed?")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    bail!("{}", said.lines().last().unwrap_or("ctr failed without a word"))
}

/// Bytes by source.
type Sources = BTreeMap<String, u64>;

/// What the proxy has received, by source.
async fn received(proxy: &Address) -> Result<Sources> {
    Ok(sources(&admin::get(proxy, "/metrics").await?))
}

fn sources(metrics: &str) -> Sources {
    let named = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix("darter_proxy_received_bytes_total{source=\"")?;
        let (source, count) = rest.split_once("\"} ")?;
        Some((source.to_owned(), count.trim().parse().ok()?))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::super::finding::State;
    use super::*;

    const METRICS: &str = "# TYPE x counter\ndarter_proxy_received_bytes_total{source=\"origin\"} 12\n\
        darter_proxy_received_bytes_total{source=\"peer\"} 30\n";

    #[test]
    fn where_bytes_came_from_is_told() {
        let before = sources(METRICS);
        assert_eq!(before["peer"], 30);
        let mut after = before.clone();
        *after.get_mut("peer").unwrap() += 5;
        let found = judge("a:1", Ok(()), &before, &after);
        assert_eq!(
            found,
            Finding::ok(CHECK, "a:1 was pulled through the proxy: 5 bytes from peer")
        );
        assert_eq!(judge("a:1", Ok(()), &before, &before).state, State::Warn);
        assert_eq!(
            judge("a:1", Err(anyhow!("no")), &before, &after).state,
            State::Fail
        );
    }

    #[tokio::test]
    async fn without_a_proxy_nothing_is_pulled() {
        let found = pull(
            "a:1",
            Path::new("/nonexistent"),
            &Address::Tcp("127.0.0.1:1".into()),
            &[],
        )
        .await;
        assert_eq!(found.state, State::Fail);
        assert!(found.seen.contains("was not pulled"), "{found:?}");
    }
}
