//! A host's own thread of this process, with a runtime on it: every socket that is made there stands on the host.
//!
//! Registries that misbehave, peers that lie and clients that read live here, beside the real processes under test.

use std::future::Future;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::host::enter;
use crate::netns::Namespace;

/// Nothing here takes minutes.
const PATIENCE: Duration = Duration::from_secs(600);

/// A thread on a host. Dropping it ends all that runs there.
#[derive(Debug)]
pub(super) struct Island {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Island {
    pub(super) fn start(host: &Namespace) -> Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = mpsc::channel();
        let host = host.clone();
        let thread = thread::spawn(move || {
            let runtime =
                enter(&host).and_then(|()| Ok(Builder::new_current_thread().enable_all().build()?));
            match runtime {
                Ok(runtime) => {
                    let _ = tell.send(Ok(runtime.handle().clone()));
                    let _ = runtime.block_on(stopped);
                }
                Err(error) => drop(tell.send(Err(error))),
            }
        });
        let handle = told.recv().context("a thread of the harness died")??;
        Ok(Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Does it there and gives what came out.
    pub(super) fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let (tell, told) = mpsc::channel();
        self.handle.spawn(async move { tell.send(work.await) });
        told.recv_timeout(PATIENCE).context("work on a host did not end")
    }

    /// Lets it run there.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.handle.spawn(work).abort_handle()
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic was printed where it happened.
            let _ = thread.join();
        }
    }
}
