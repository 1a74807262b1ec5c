//! What goes on beside the mount: care of the cache folders, and the question for a credential that is kept elsewhere.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Daemon, DaemonError};
use crate::fs::Prefetch;
use crate::nydusd::config::{Backend, ConfigError, Registry, backend};
use crate::nydusd::images::Opened;

/// How long the snapshotter is asked for a backend in all: it may know of this process a moment after it was started.
const QUESTIONS_TIME: Duration = Duration::from_secs(5);
/// Between two questions.
const QUESTION_PAUSE: Duration = Duration::from_millis(250);

impl Daemon {
    /// Tidies the cache folders at times, until the process is to end.
    pub(super) fn look_after(&self) {
        let daemon = self.clone();
        self.0.tasks.spawn("care of nydusd's caches", async move {
            let (stop, leave) = (daemon.0.stop.clone(), daemon.0.leave.clone());
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = leave.cancelled() => return,
                    () = sleep(daemon.options().tidy_every) => {}
                }
                // It fails when the process stops.
                let tidied = daemon.blocking(|daemon| {
                    daemon.0.images.tidy();
                    Ok(())
                });
                if tidied.await.is_err() {
                    return;
                }
            }
        });
    }

    /// Begins to fetch what is wanted of an image before anybody reads it.
    pub(super) fn prefetch(opened: &Opened, paths: &[std::path::PathBuf]) {
        let all = opened.prefetch.all || matches!(paths, [path] if path.as_os_str() == "/");
        let wanted = Prefetch {
            seen: Vec::new(),
            table: opened.prefetch.table,
            paths: paths.to_vec(),
            all,
        };
        if wanted != Prefetch::default() {
            opened.shown.image().prefetch(&wanted);
        }
    }

    /// Asks for the credential of the one image, where the configuration has none. Reads wait for it.
    pub(super) fn ask_for_credential(&self) {
        let Some(source) = self.options().backend_source.clone() else {
            return;
        };
        let known = |opened: &Opened| opened.state.auth.is_some() || opened.credential.is_known();
        let credential = match self.inner().images.get("/") {
            Some(opened) if !known(opened) => opened.credential.clone(),
            _ => return,
        };
        credential.expect();
        let daemon = self.clone();
        self.0.tasks.spawn("question for a credential", async move {
            let tasks = daemon.0.tasks.clone();
            let mut why = String::new();
            let told = timeout(QUESTIONS_TIME, async {
                loop {
                    let answer = source.ask(&tasks).await.map_err(|error| error.to_string());
                    match answer.and_then(|answer| daemon.learn(&answer).map_err(|error| error.to_string())) {
                        Ok(()) => return,
                        Err(error) => why = error,
                    }
                    tracing::debug!(error = why, "the snapshotter is asked again");
                    sleep(QUESTION_PAUSE).await;
                }
            });
            if told.await.is_err() {
                tracing::error!(
                    error = why,
                    "nobody tells the credential of the image: it is read without"
                );
            }
            credential.settle();
        });
    }

    /// Takes the credential of a backend. Where its blobs are is in the configuration.
    fn learn(&self, answer: &[u8]) -> Result<(), DaemonError> {
        let Backend::Registry(Registry { authorization, .. }) = backend(answer)? else {
            return Err(ConfigError::Key("backend.type").into());
        };
        let mut inner = self.inner();
        let opened = inner.find_mut(Some("/"))?;
        // One that came through the API meanwhile is newer.
        if opened.state.auth.is_none() {
            opened.credential.set(authorization);
        }
        Ok(())
    }
}
