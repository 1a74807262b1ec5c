//! Link caps: what makes an experiment about links and not about the machine's cores.
//!
//! A rate is what goes over the wire; TCP payload gets 0.957 of it (1,448 of 1,514 bytes). Queues are byte
//! FIFOs. A plain FIFO shares a sender's link unfairly between receivers, so the origin, which sends to all,
//! gets a class for each. There is no delay: kernels without netem are common.

use std::process::Command;

use anyhow::Result;

use crate::command::{command, run};
use crate::netns::Namespace;

/// Share of a capped link that is TCP payload.
pub const PAYLOAD_SHARE: f64 = 1448.0 / 1514.0;

/// A cap: rate on the wire and the length of the queue before it.
#[derive(Debug, Clone, Copy)]
pub struct Cap {
    /// Megabits (10^6) a second.
    pub mbit: u32,
    /// Bytes that may wait, in KiB; what is beyond them is dropped.
    pub queue_kib: u32,
}

impl Cap {
    /// A cap with a queue of 512 KiB, which holds the bandwidth-delay product of these networks many times.
    pub fn mbit(mbit: u32) -> Self {
        Self { mbit, queue_kib: 512 }
    }
}

/// Caps what `host` sends.
///
/// # Errors
/// When `tc` refuses.
pub fn limit_upload(host: &Namespace, cap: Cap) -> Result<()> {
    limit(&host.full_name(), "eth0", cap)
}

/// Caps what `host` receives, at the bridge's port that leads to it.
///
/// # Errors
/// When `tc` refuses.
pub fn limit_download(host: &Namespace, cap: Cap) -> Result<()> {
    limit(&host.hub(), &host.port(), cap)
}

/// Caps what `host` sends and shares it evenly between `receivers`; what one does not use, others may.
///
/// # Errors
/// When `tc` refuses.
pub fn limit_upload_fairly(host: &Namespace, cap: Cap, receivers: &[Namespace]) -> Result<()> {
    let name = host.full_name();
    let tc = |words: &[&str]| tc(&name, words);
    let ceiling = format!("{}mbit", cap.mbit);
    let queue = format!("{}kb", cap.queue_kib);
    clear(&name, "eth0");
    tc(&[
        "qdisc", "add", "dev", "eth0", "root", "handle", "1:", "htb", "default", "fff",
    ])?;
    class(&name, "eth0", "1:", "1:1", &ceiling, &ceiling)?;
    class(&name, "eth0", "1:1", "1:fff", "1mbit", &ceiling)?;
    let count = u32::try_from(receivers.len().max(1))?;
    let share = format!("{}kbit", cap.mbit * 1000 / count);
    for receiver in receivers {
        let id = format!("1:{:x}", 16 + u32::from(receiver.address().octets()[3]));
        let address = format!("{}/32", receiver.address());
        class(&name, "eth0", "1:1", &id, &share, &ceiling)?;
        tc(&[
            "qdisc", "add", "dev", "eth0", "parent", &id, "bfifo", "limit", &queue,
        ])?;
        let filter = [
            "filter", "add", "dev", "eth0", "parent", "1:", "protocol", "ip", "prio", "1",
        ];
        tc(&[
            &filter[..],
            &["u32", "match", "ip", "dst", &address, "flowid", &id],
        ]
        .concat())?;
    }
    Ok(())
}

/// Times that the cap of what `host` sends held a packet back.
///
/// # Errors
/// When the host has no cap.
pub fn held_back(host: &Namespace) -> Result<u64> {
    let mut show = command([
        "tc",
        "-n",
        &host.full_name(),
        "-s",
        "-j",
        "qdisc",
        "show",
        "dev",
        "eth0",
        "root",
    ]);
    let json: serde_json::Value = serde_json::from_str(&crate::command::output(&mut show)?)?;
    let count = json.pointer("/0/overlimits").and_then(serde_json::Value::as_u64);
    count.ok_or_else(|| anyhow::anyhow!("{} has no cap", host.name()))
}

fn limit(namespace: &str, device: &str, cap: Cap) -> Result<()> {
    let rate = format!("{}mbit", cap.mbit);
    let queue = format!("{}kb", cap.queue_kib);
    clear(namespace, device);
    tc(
        namespace,
        &[
            "qdisc", "add", "dev", device, "root", "handle", "1:", "htb", "default", "1",
        ],
    )?;
    class(namespace, device, "1:", "1:1", &rate, &rate)?;
    tc(
        namespace,
        &[
            "qdisc", "add", "dev", device, "parent", "1:1", "bfifo", "limit", &queue,
        ],
    )
}

/// An HTB class. The burst is above what one timer tick sends at 1 Gbit/s, so that high caps are reached too.
fn class(namespace: &str, device: &str, parent: &str, id: &str, rate: &str, ceiling: &str) -> Result<()> {
    let place = ["class", "add", "dev", device, "parent", parent, "classid", id];
    let rates = [
        "htb", "rate", rate, "ceil", ceiling, "burst", "128kb", "cburst", "128kb", "quantum", "65536",
    ];
    tc(namespace, &[&place[..], &rates[..]].concat())
}

/// Removes the cap, if there is one.
fn clear(namespace: &str, device: &str) {
    let _ = tc(namespace, &["qdisc", "del", "dev", device, "root"]);
}

fn tc(namespace: &str, words: &[&str]) -> Result<()> {
    run(Command::new("tc").args(["-n", namespace]).args(words))
}
