//! What goes on beside the mount: care of the cache folders, and the question for a credential that is kept elsewhere.

use std::time::Duration;

use tokio::time::sleep;

use super::{Daemon, DaemonError};
use crate::fs::Prefetch;
use crate::nydusd::config::{Backend, ConfigError, Registry, backend};
use crate::nydusd::images::Opened;

/// How often the snapshotter is asked for a backend: it may know of this process a moment after it was started.
const QUESTIONS_MAX: u32 = 8;
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
        let Some(credential) = self
            .inner()
            .images
            .get("/")
            .map(|opened| opened.credential.clone())
        else {
            return;
        };
        credential.expect();
        let daemon = self.clone();
        self.0.tasks.spawn("question for a credential", async move {
            let tasks = daemon.0.tasks.clone();
            for question in 1..=QUESTIONS_MAX {
                let answer = source.ask(&tasks).await;
                let told = answer
                    .map_err(|error| error.to_string())
                    .and_then(|answer| daemon.learn(&answer).map_err(|error| error.to_string()));
                match told {
                    Ok(()) => break,
                    Err(error) if question == QUESTIONS_MAX => {
                        tracing::error!(
                            error,
                            "nobody tells the credential of the image: it is read without"
                        );
                    }
                    Err(error) => {
                        tracing::debug!(error, "the snapshotter is asked again");
                        sleep(QUESTION_PAUSE).await;
                    }
                }
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
