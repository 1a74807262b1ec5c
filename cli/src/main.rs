//! The binary `darter`: what was typed becomes a configuration, the configuration a running role.
//!
//! Nothing is decided here: each subcommand is a file that fills in a library's arguments. What must hold: everything
//! that is wrong with the command line or a configuration ends with status 64, a clean stop with 0, a failure with 1.

mod admin;
mod bridge;
mod certs;
mod doctor;
mod exit;
mod guarded;
mod manager;
mod proxy;
mod query;
mod role;
mod scheduler;
mod setup;
mod system;
mod table;
mod up;
mod why;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Container images come from the registry once, then from node to node.
#[derive(Debug, Parser)]
#[command(name = "darter", version, disable_help_subcommand = true, max_term_width = 100, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  darter up                                 try it: everything in one process, no configuration
  darter scheduler run                      on one machine: the scheduler
  darter proxy run --set scheduler.addresses='[\"10.0.0.5:8002\"]'
                                            on each node: the mirror
  darter manager run                        on one machine: clusters, users and what they did
  darter setup containerd                   on each node: containerd pulls through the mirror
  darter mount registry.example/app:nydus /mnt
                                            a Nydus image as a directory, fetched as it is read
  darter nydus convert registry.example/app:1.2
                                            makes the Nydus image of an ordinary one
  darter snapshotter                        on each node: Nydus images in containerd
  darter doctor                             what is wrong with this node
  darter why nginx                          where the bytes of the last pull came from
  darter scheduler tasks                    who has what, who waits for what";

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything in one process and with no configuration: mirror, seed and scheduler
    Up(up::Up),
    /// The mirror that runs on each node, or a seed peer
    Proxy(proxy::Proxy),
    /// The scheduler, and questions to a running one
    Scheduler(scheduler::Scheduler),
    /// One place to see and steer clusters: who is in them, who may change them
    Manager(manager::Manager),
    /// Makes a client (container runtime, builder, snapshotter) pull through the mirror, and undoes it
    Setup(setup::Setup),
    /// Mounts a Nydus image at a directory; its files are fetched when they are read
    #[command(disable_help_flag = true)]
    Mount(bridge::Bridge),
    /// Unmounts what was mounted so
    #[command(disable_help_flag = true)]
    Umount(bridge::Bridge),
    /// Serves containerd's snapshots: Nydus images run before they are there, others as with overlayfs
    #[command(disable_help_flag = true)]
    Snapshotter(bridge::Bridge),
    /// Makes Nydus images of ordinary ones
    #[command(disable_help_flag = true)]
    Nydus(bridge::Bridge),
    /// Serves nydus-snapshotter in nydusd's place
    #[command(disable_help_flag = true)]
    Nydusd(bridge::Bridge),
    /// Certificates for a small cluster: a CA, nodes, seeds and schedulers
    Certs(certs::Certs),
    /// Looks at this node as an operator would, and says what to do about what it finds
    Doctor(doctor::Doctor),
    /// Shows the last pull of an image on this node: each request, and where its bytes came from
    Why(why::Why),
    /// Version of this build and of the protocol that it speaks
    Version,
}

fn main() -> ExitCode {
    system::harden(|name| std::env::var_os(name));
    if let Err(error) = guarded::follow() {
        return exit::code(Err(error));
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return exit::usage(&error),
    };
    exit::code(match arguments.command {
        Command::Up(up) => up.run(),
        Command::Proxy(proxy) => proxy.run(),
        Command::Scheduler(scheduler) => scheduler.run(),
        Command::Manager(manager) => manager.run(),
        Command::Setup(setup) => setup.run(),
        Command::Mount(bridge) => bridge.run("mount"),
        Command::Umount(bridge) => bridge.run("umount"),
        Command::Snapshotter(bridge) => bridge.run("snapshotter"),
        Command::Nydus(bridge) => bridge.run("nydus"),
        Command::Nydusd(bridge) => bridge.run("nydusd"),
        Command::Certs(certs) => certs.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Why(why) => why.run(),
        Command::Version => system::print(&version()),
    })
}

fn version() -> String {
    format!(
        "darter {}\nwire protocol {}\nplatform {}-{}\n",
        darter_service::build_info::text(),
        darter_proto::WIRE_VERSION,
        std::env::consts::ARCH,
        std::env::consts::OS,
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_commands_are_consistent() {
        super::Arguments::command().debug_assert();
    }
}
