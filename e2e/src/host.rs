//! Threads of this process that stand on hosts of the lab.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::Barrier;
use std::thread;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::netns::Namespace;

/// Does `work` on a thread of its own that stands on `host`.
///
/// # Errors
/// When the host is gone, or `work` fails or panics.
pub fn on<T: Send>(host: &Namespace, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let results = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(host)?;
            work()
        });
        thread.join()
    });
    results.unwrap_or_else(|_| Err(anyhow!("a measuring thread panicked on {}", host.name())))
}

/// Does `work` for each of `hosts`, all at the same moment. `prepare` comes before that moment.
///
/// # Errors
/// As [`on`], for the first that fails.
pub fn together<P, T: Send>(
    hosts: &[Namespace],
    prepare: impl Fn(usize) -> Result<P> + Sync,
    work: impl Fn(P) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let start = Barrier::new(hosts.len());
    thread::scope(|scope| {
        let begin = |(index, host)| {
            let (start, prepare, work) = (&start, &prepare, &work);
            scope.spawn(move || {
                let prepared = enter(host).and_then(|()| prepare(index));
                // Also after a failure: the others wait here.
                start.wait();
                work(prepared?)
            })
        };
        let threads: Vec<_> = hosts.iter().enumerate().map(begin).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<T>>| {
            let ended = thread.join();
            ended.unwrap_or_else(|_| Err(anyhow!("a measuring thread panicked")))
        };
        threads.into_iter().map(join).collect()
    })
}

/// Moves the calling thread to `host`.
///
/// # Errors
/// When the host is gone.
pub fn enter(host: &Namespace) -> Result<()> {
    let path = format!("/run/netns/{}", host.full_name());
    let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter {path}"))
}
