//! `darter why`: the waterfall of the last pull of an image through this node's proxy.

mod image;
mod pull;
mod waterfall;

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use darter_service::net::Address;
use http::Method;

use crate::{admin, system};

use image::Image;

const EXAMPLES: &str = "\
Examples:
  darter why nginx
  darter why registry.example:5000/team/app:1.2 --json
  darter why ghcr.io/team/app@sha256:3f2a… --admin 10.0.0.7:4002

Bars: `.` waiting for the first byte, then `c` bytes from this node's store, `p` from other nodes, `o` from the registry.";

/// `darter why`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Why {
    /// The image, as it was pulled
    image: Image,
    /// The admin port of the proxy: `admin.listen` of its configuration
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4002")]
    admin: Address,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Why {
    /// Asks the proxy, and prints.
    pub(crate) fn run(self) -> Result<()> {
        let text = admin::ask(
            &self.admin,
            Method::GET,
            darter_proxy::journal::PATH,
            String::new(),
        )?;
        let journal: pull::Journal =
            serde_json::from_str(&text).context("the proxy is of another release")?;
        let Some(pull) = pull::last(&journal, &self.image) else {
            bail!(
                "no pull of {} came through this proxy lately: if there was one, the runtime does not ask the mirror \
                 (darter doctor says why)",
                self.image
            );
        };
        system::print(&match self.json {
            true => format!("{:#}\n", serde_json::to_value(&pull)?),
            false => waterfall::draw(&pull, std::io::stdout().is_terminal()),
        })
    }
}
