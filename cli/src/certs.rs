//! `darter certs`: the command line of `darter-certs`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use darter_certs::authority::{self, Authority};
use darter_certs::node::{self, Node};
use darter_certs::{Error, Written, show};
use darter_service::tls::CertificateRole;
use darter_types::HostId;
use time::OffsetDateTime;

use crate::exit::Usage;
use crate::system;

/// `darter certs …`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Certs {
    #[command(subcommand)]
    action: Action,
}

const EXAMPLES: &str = "\
Examples:
  darter certs ca --dir pki                                        once a cluster
  darter certs node --dir pki --name scheduler.example --role scheduler
  darter certs node --dir pki --name seed1 --san 10.0.0.6 --role seed
  darter certs node --dir pki --name node1 --san 10.0.0.7          the address that others are told
  darter certs node --dir pki --name node1 --san 10.0.0.7 --force  renew; roles take it without a restart
  darter certs show pki/node1.pem
  darter certs interception-ca --dir pki --host registry.example   for a forward proxy that opens TLS

Keep ca.key where certificates are made: no node needs it, and whoever has it is any node.";

#[derive(Debug, Subcommand)]
enum Action {
    /// Make the CA of a cluster: ca.pem and ca.key
    Ca(Ca),
    /// Make the certificate of a node, a seed or a scheduler: NAME.pem and NAME.key
    #[command(after_help = EXAMPLES)]
    Node(NodeArguments),
    /// Make a CA of its own for the hosts whose TLS a forward proxy is to open
    InterceptionCa(Interception),
    /// Say what stands in a file of certificates
    Show {
        /// The file, in PEM
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Where files go, and whether they may replace others.
#[derive(Debug, Args)]
struct Target {
    /// Where the CA lies and files are written; made with mode 0700 if missing
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Replace the files that are there
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct Ca {
    #[command(flatten)]
    target: Target,
    /// How long it is good
    #[arg(long, value_name = "N", default_value_t = authority::CLUSTER_DAYS)]
    days: u32,
}

#[derive(Debug, Args)]
struct NodeArguments {
    #[command(flatten)]
    target: Target,
    /// The node's name (`host` in its configuration, else the machine's name), or the host of a scheduler's address
    #[arg(long, value_name = "HOST")]
    name: HostId,
    /// Another DNS name or IP address that others reach it by; may be repeated
    #[arg(long = "san", value_name = "IP|DNS")]
    names: Vec<String>,
    /// What it may be; may be repeated
    #[arg(long = "role", value_name = "ROLE", value_enum, default_value = "peer")]
    roles: Vec<Role>,
    /// How long it is good, at most as long as the CA
    #[arg(long, value_name = "N", default_value_t = node::NODE_DAYS)]
    days: u32,
}

#[derive(Debug, Args)]
struct Interception {
    #[command(flatten)]
    target: Target,
    /// A host whose TLS is opened, with all hosts under it; may be repeated. The CA can sign no other name
    #[arg(long = "host", value_name = "DNS", required = true)]
    hosts: Vec<String>,
    /// How long it is good
    #[arg(long, value_name = "N", default_value_t = authority::INTERCEPTION_DAYS)]
    days: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// A node
    Peer,
    /// A node that fetches on behalf of others, and whose chains are believed
    Seed,
    /// A scheduler
    Scheduler,
    /// A manager
    Manager,
}

impl From<Role> for CertificateRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Peer => Self::Peer,
            Role::Seed => Self::Seed,
            Role::Scheduler => Self::Scheduler,
            Role::Manager => Self::Manager,
        }
    }
}

impl Certs {
    /// Makes, writes, and says what to do next.
    pub(crate) fn run(self) -> Result<()> {
        let now = OffsetDateTime::now_utc();
        let text = match self.action {
            Action::Ca(arguments) => arguments.run(now),
            Action::Node(arguments) => arguments.run(now),
            Action::InterceptionCa(arguments) => arguments.run(now),
            Action::Show { file } => show::file(&file, now),
        };
        system::print(&text.map_err(usage)?)
    }
}

fn usage(error: Error) -> anyhow::Error {
    if error.is_usage() {
        Usage(error.to_string()).into()
    } else {
        error.into()
    }
}

fn written(written: &Written) -> String {
    format!(
        "wrote {}\nwrote {} (mode 0600)\ngood until {}\n",
        written.cert_file.display(),
        written.key_file.display(),
        show::date(written.not_after.unix_timestamp())
    )
}

impl Ca {
    fn run(&self, now: OffsetDateTime) -> Result<String, Error> {
        let Target { dir, force } = &self.target;
        let made = written(&authority::make(dir, self.days, *force, now)?);
        let dir = dir.display();
        Ok(format!(
            "{made}\n\
             Next, for each node and scheduler:\n  \
             darter certs node --dir {dir} --name HOST --san IP [--role seed|scheduler]\n\n\
             Keep ca.key here: no node needs it, and whoever has it is any node.\n"
        ))
    }
}

impl NodeArguments {
    fn run(self, now: OffsetDateTime) -> Result<String, Error> {
        let Target { dir, force } = &self.target;
        let authority = Authority::open(dir, now)?;
        let node = Node {
            name: self.name,
            names: self.names,
            roles: self.roles.into_iter().map(CertificateRole::from).collect(),
            days: self.days,
        };
        let made = node::make(&authority, dir, &node, *force, now)?;
        let (name, shortened) = (&node.name, made.not_after == authority.not_after());
        let note = if shortened {
            "(with its CA: make that one longer, or a new one in time)\n"
        } else {
            ""
        };
        Ok(format!(
            "{}{note}\n\
             Next, on {name}: put {name}.pem, {name}.key and {}.pem where only its role can read the key, and name them\n\
             in its configuration:\n\n  \
             tls:\n    \
             certFile: /etc/darter/tls/{name}.pem\n    \
             keyFile: /etc/darter/tls/{name}.key\n    \
             caFile: /etc/darter/tls/{}.pem\n\n\
             To renew it, make it again with --force and put it there: a role that runs takes it by itself.\n",
            written(&made),
            authority::CLUSTER,
            authority::CLUSTER,
        ))
    }
}

impl Interception {
    fn run(&self, now: OffsetDateTime) -> Result<String, Error> {
        let Target { dir, force } = &self.target;
        let made = authority::make_for_interception(dir, &self.hosts, self.days, *force, now)?;
        Ok(format!(
            "{}can sign {} and what lies under, nothing else\n\n\
             Next: put both files on the node of the forward proxy, and {}.pem among the authorities of its clients.\n\
             Whoever has the key can read what those clients send to these hosts: keep it from everybody else.\n",
            written(&made),
            self.hosts.join(", "),
            authority::INTERCEPTION,
        ))
    }
}
