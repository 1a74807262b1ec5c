//! Logs: text on a terminal, JSON otherwise, to standard error; what is logged can be changed while the role runs.
//!
//! The program installs the subscriber ([`Setup::install`]), once; roles only log.

mod bounded;

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::{Registry, reload};

use crate::config::ByteSize;
use crate::traces::{self, Traces};
use bounded::{Bounded, Flow};

/// The section `log` of every role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct LogConfig {
    /// How a line looks. `auto`: text on a terminal, JSON otherwise, since then a collector reads it.
    pub format: Format,
    /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`), or levels by module
    /// (`info,darter_proxy::pull=debug`). `--log` and `DARTER_LOG` come before it; `PUT /loglevel` changes it.
    pub filter: String,
    /// Most bytes that are logged in a minute; lines beyond it are left out and counted. At least 64 KiB.
    pub bytes_per_minute_max: ByteSize,
}

/// With less, the lines of a start would not all be there.
const BYTES_PER_MINUTE_MIN: ByteSize = ByteSize::kib(64);

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: Format::Auto,
            filter: "info".into(),
            bytes_per_minute_max: ByteSize::mib(10),
        }
    }
}

impl LogConfig {
    /// Adds what is wrong with it.
    pub fn validate(&self, problems: &mut crate::config::Problems) {
        if let Err(error) = parse(&self.filter) {
            problems.add("filter", error.to_string());
        }
        if self.bytes_per_minute_max < BYTES_PER_MINUTE_MIN {
            problems.add(
                "bytesPerMinuteMax",
                format!("must be at least {BYTES_PER_MINUTE_MIN}"),
            );
        }
    }
}

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging is not as it should be.
#[derive(Debug, Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error("log filter {filter:?}: {reason}; write a level such as info, or info,darter_proxy::pull=debug")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something else in this process has installed a subscriber.
    #[error("logging is set up already")]
    Installed,
    /// The subscriber is gone.
    #[error("the log filter cannot be changed: {0}")]
    Gone(String),
}

/// Changes what is logged. Cheap to clone.
#[derive(Clone)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    flow: Arc<Flow>,
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogHandle").field(&self.filter()).finish()
    }
}

impl LogHandle {
    /// The filter that applies now.
    pub fn filter(&self) -> String {
        self.filter.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Shows how many lines were left out.
    pub fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        registry.register(
            "darter_log_left_out_lines",
            "Lines that were not logged because there were more than log.bytesPerMinuteMax",
            self.flow.left_out_total().clone(),
        );
    }

    /// Sets the filter from here on.
    ///
    /// # Errors
    /// A filter that cannot be read; the old one stays.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let parsed = parse(filter)?;
        self.filter
            .reload(parsed)
            .map_err(|error| LogError::Gone(error.to_string()))
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let wrong = |reason: String| LogError::Filter {
        filter: filter.chars().take(128).collect(),
        reason,
    };
    if filter.trim().is_empty() {
        return Err(wrong("it is empty".into()));
    }
    EnvFilter::builder()
        .parse(filter)
        .map_err(|error| wrong(error.to_string()))
}

/// What logging is set up from.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// The section of the configuration.
    pub config: &'a LogConfig,
    /// `--log`, before all else.
    pub flag: Option<&'a str>,
    /// `DARTER_LOG`, before the configuration. An empty one counts as absent.
    pub env: Option<&'a str>,
    /// Where spans go as well, if anywhere.
    pub traces: Option<&'a Traces>,
}

impl Setup<'_> {
    /// Logs of the whole process go to standard error from here on.
    ///
    /// # Errors
    /// A filter that cannot be read, or logging that is set up already.
    pub fn install(self) -> Result<LogHandle, LogError> {
        let terminal = std::io::stderr().is_terminal();
        let (subscriber, handle) = self.subscriber(std::io::stderr, terminal)?;
        tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Installed)?;
        Ok(handle)
    }

    /// The subscriber alone, for tests and for those who install it elsewhere.
    ///
    /// # Errors
    /// A filter that cannot be read.
    pub fn subscriber<W>(
        self,
        writer: W,
        terminal: bool,
    ) -> Result<(impl Subscriber + Send + Sync + use<W>, LogHandle), LogError>
    where
        W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
    {
        let env = self.env.filter(|filter| !filter.is_empty());
        let filter = parse(self.flag.or(env).unwrap_or(&self.config.filter))?;
        let (filter, handle) = reload::Layer::new(filter);
        // Lines say all that they need themselves. So spans cost nothing unless they are sent somewhere, whatever the level.
        let events = filter.and(filter_fn(|metadata| metadata.is_event()));
        let text = match self.config.format {
            Format::Auto => terminal,
            Format::Text => true,
            Format::Json => false,
        };
        let flow = Arc::new(Flow::new(self.config.bytes_per_minute_max.as_u64()));
        let bounded = Bounded {
            inner: writer,
            flow: Arc::clone(&flow),
            colours: terminal,
        };
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(bounded)
            .with_ansi(terminal);
        let lines = if text {
            lines.boxed()
        } else {
            lines.json().flatten_event(true).with_span_list(false).boxed()
        };
        let spans = traces::layer(self.traces);
        let subscriber = tracing_subscriber::registry()
            .with(lines.with_filter(events))
            .with(spans);
        Ok((subscriber, LogHandle { filter: handle, flow }))
    }
}

#[cfg(test)]
mod tests;
