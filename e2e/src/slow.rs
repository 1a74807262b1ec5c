//! A registry far away: a relay that keeps what clients send for a while and hands on the answers at once.
//!
//! Each request is late by that time, whatever comes with it; several on different connections are late together, as over a long
//! line. Kernels without a delay of their own are common.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use crate::clock::{now, pause};
use crate::host;
use crate::netns::Namespace;

/// Its port.
const PORT: u16 = 5001;
/// Most bytes that are read at once.
const READ: usize = 64 << 10;
/// Reads of one connection that may wait.
const WAITING_MAX: usize = 64;

/// A running relay; it takes no more connections when it is dropped.
#[derive(Debug)]
pub struct Relay {
    host: Namespace,
    address: SocketAddr,
    ended: Arc<AtomicBool>,
}

impl Relay {
    /// Starts one on `host`, before `server`.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(host: &Namespace, server: &str, delay: Duration) -> Result<Self> {
        let server: SocketAddr = server.parse().context("an address of a registry")?;
        let address = SocketAddr::from((host.address(), PORT));
        let ended = Arc::new(AtomicBool::new(false));
        let listener = host::on(host, || Ok(TcpListener::bind(address)?))?;
        let (place, seen) = (host.clone(), Arc::clone(&ended));
        thread::spawn(move || {
            if let Err(error) = host::enter(&place) {
                eprintln!("e2e: {error:#}");
                return;
            }
            for client in listener.incoming() {
                if seen.load(Ordering::SeqCst) {
                    return;
                }
                let _ = client.map(|client| connect(client, server, delay));
            }
        });
        Ok(Self {
            host: host.clone(),
            address,
            ended,
        })
    }

    /// Its URL without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // It looks when somebody comes.
        let _ = host::on(&self.host, || Ok(TcpStream::connect(self.address)?));
    }
}

/// Relays one connection, on threads of its own, until both sides have ended.
fn connect(client: TcpStream, server: SocketAddr, delay: Duration) -> Result<()> {
    let server = TcpStream::connect(server)?;
    for side in [&client, &server] {
        side.set_nodelay(true)?;
    }
    let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (sender, receiver) = sync_channel(WAITING_MAX);
    thread::spawn(move || send_late(&receiver, server, delay));
    thread::spawn(move || {
        read_into(client, |piece| {
            sender.send(piece).map_err(|error| anyhow!("{error}"))
        })
    });
    Ok(())
}

fn read_into(mut client: TcpStream, mut give: impl FnMut((Instant, Vec<u8>)) -> Result<()>) {
    let mut buffer = vec![0; READ];
    while let Ok(count) = client.read(&mut buffer) {
        let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else {
            return;
        };
        if give((now(), read.to_vec())).is_err() {
            return;
        }
    }
}

fn send_late(pieces: &Receiver<(Instant, Vec<u8>)>, mut server: TcpStream, delay: Duration) {
    for (came, piece) in pieces {
        pause(delay.saturating_sub(came.elapsed()));
        if server.write_all(&piece).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Write);
}
