//! A real image of more than a gigabyte, pulled by eight containerds at once over capped links.
//!
//! `ctr content fetch` moves the contents and does not unpack them: unpacking costs the machine more than moving, and
//! would be what is measured. What a pull without Darter takes is reckoned from the caps.

use std::path::Path;

use anyhow::{Context, Result};

use super::Options;
use super::machine::Ticks;
use super::node::{Node, Plan, Scheduler};
use super::report::{Better, Report};
use super::stats::{float, median};
use crate::clock::{now, pause};
use crate::containerd::{Containerd, wait_all};
use crate::darter::{MIRROR, Role};
use crate::image::{Set, prepare};
use crate::lab::Lab;
use crate::netns::Namespace;
use crate::registry::Registry;
use crate::shape::{Cap, PAYLOAD_SHARE, limit_download, limit_upload, limit_upload_fairly};

const NODES: u8 = 8;
/// With more, the cores of a small machine bind and not the links: sixteen programs hash all that they receive.
const MBIT: u32 = 50;
const FIRST_NODE: u8 = 10;
const TIME_MAX: f64 = 1.25;
const ORIGIN_BYTES_MAX: f64 = 1.02;

/// Everything of a run, in the order in which it must end.
struct Scene {
    clients: Vec<Containerd>,
    nodes: Vec<Node>,
    seed: Node,
    _scheduler: Scheduler,
    registry: Registry,
    lab: Lab,
}

pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let fixtures = prepare(Set::Large)?;
    let image = fixtures.images().first().context("the set has no image")?.clone();
    let name = format!("n{NODES}-image-{}MB", image.bytes() / 1_000_000);
    let mbit = options.mbit.unwrap_or(MBIT);
    let rate = f64::from(mbit) * 1e6 / 8.0 * PAYLOAD_SHARE;
    let bound = float(image.bytes()) / rate;
    let (mut times, mut origin, mut copies, mut busy) = (vec![], vec![], vec![], vec![]);
    for _ in 0..options.runs(1) {
        let mut scene = Scene::start(&fixtures.store, mbit)?;
        let (start, ticks) = (now(), Ticks::now()?);
        let pulls: Result<Vec<_>> = scene
            .clients
            .iter_mut()
            .map(|client| client.fetch(&image))
            .collect();
        wait_all(pulls?)?;
        times.push(start.elapsed().as_secs_f64());
        busy.push(ticks.until_now()?.busy);
        scene
            .clients
            .iter()
            .try_for_each(|client| client.verify(&image))?;
        let sent = scene.seed.metric("darter_proxy_peer_sent_bytes_total")?;
        copies.push(sent / float(image.bytes()));
        scene.registry.settle()?;
        origin.push(float(scene.registry.payload_sent()?) / float(image.bytes()));
        scene.end()?;
    }
    let (last, lower) = (median(&times), Better::Lower);
    report.target(&name, "time_over_bound", last / bound, "ratio", lower, TIME_MAX);
    report.target(
        &name,
        "origin_bytes_over_size",
        median(&origin),
        "ratio",
        lower,
        ORIGIN_BYTES_MAX,
    );
    report.note(&name, "origin_copies_sent", median(&copies), "ratio", lower);
    let direct = f64::from(NODES) * bound;
    report.note(
        &name,
        "speedup_vs_direct_reckoned",
        direct / last,
        "ratio",
        Better::Higher,
    );
    report.note(&name, "link_mbit", f64::from(mbit), "Mbit/s", Better::Higher);
    report.note(&name, "bound_s", bound, "s", lower);
    report.note(&name, "machine_busy", median(&busy), "share", lower);
    Ok(())
}

impl Scene {
    fn start(store: &Path, mbit: u32) -> Result<Self> {
        let mut lab = Lab::start()?;
        let origin = lab.host("origin", 1)?;
        let (scheduler_host, seed_host) = (lab.host("scheduler", 2)?, lab.host("seed", 3)?);
        let registry = Registry::serve(&origin, store, &lab.folder_of("origin"))?;
        let hosts: Result<Vec<Namespace>> = (0..NODES)
            .map(|index| lab.host(&format!("n{index}"), FIRST_NODE + index))
            .collect();
        let hosts = hosts?;
        let cap = Cap::mbit(mbit);
        let receivers: Vec<Namespace> = hosts.iter().chain([&seed_host]).cloned().collect();
        for host in &receivers {
            limit_upload(host, cap)?;
            limit_download(host, cap)?;
        }
        limit_upload_fairly(&origin, cap, &receivers)?;
        let scheduler = Scheduler::start(&scheduler_host, &lab.folder_of("scheduler"))?;
        let proxy = |host: &Namespace, role| {
            let plan = Plan {
                name: host.name(),
                role,
                folder: &lab.folder_of(host.name()),
                store: &lab.folder_of(host.name()).join("store"),
                origin: registry.url(),
                schedulers: vec![scheduler.address.clone()],
                place: 0,
            };
            Node::start(host, &plan)
        };
        let seed = proxy(&seed_host, Role::Seed)?;
        let nodes: Result<Vec<Node>> = hosts.iter().map(|host| proxy(host, Role::Peer)).collect();
        let client = |host: &Namespace| {
            let folder = lab.folder_of(host.name());
            let client = Containerd::start(host, &folder, &folder.join("content"))?;
            client.set_hosts(&registry.url(), &[MIRROR])?;
            Ok(client)
        };
        let clients: Result<Vec<Containerd>> = hosts.iter().map(client).collect();
        let (clients, nodes) = (clients?, nodes?);
        pause(std::time::Duration::from_secs(3)); // Until the scheduler gives leases.
        Ok(Self {
            clients,
            nodes,
            seed,
            _scheduler: scheduler,
            registry,
            lab,
        })
    }

    fn end(mut self) -> Result<()> {
        self.clients.clear();
        self.nodes.clear();
        self.lab.passed();
        Ok(())
    }
}
