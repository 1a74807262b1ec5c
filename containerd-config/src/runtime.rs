//! The clients that setup knows: the name of each one's record, and how each takes a changed file up.

/// A client, or several that read the same files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Runtime {
    /// containerd.
    Containerd,
    /// The Docker daemon.
    Docker,
    /// podman, buildah, skopeo and CRI-O: all read `registries.conf`.
    Containers,
    /// A `BuildKit` daemon of its own; inside Docker the daemon's settings hold.
    Buildkit,
    /// stargz-snapshotter.
    Stargz,
    /// SOCI snapshotter.
    Soci,
    /// nydus-snapshotter.
    Nydus,
}

impl Runtime {
    /// The folder of its record below the state directory.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Docker => "docker",
            Self::Containers => "containers",
            Self::Buildkit => "buildkit",
            Self::Stargz => "stargz",
            Self::Soci => "soci",
            Self::Nydus => "nydus-snapshotter",
        }
    }

    /// The subcommand of `darter setup` that a comment in a file names.
    pub(crate) fn command(self) -> &'static str {
        match self {
            Self::Containers => "podman",
            other => other.folder(),
        }
    }

    /// What stands above an entry that setup writes.
    pub(crate) fn comment(self) -> String {
        let command = self.command();
        format!("# Written by `darter setup {command}`; `darter setup {command} --undo` takes it back.\n")
    }

    /// What to do after a file changed that is not read at each pull.
    pub(crate) fn next_step(self) -> &'static str {
        match self {
            Self::Containerd => {
                "is read at the start only: restart containerd once (running containers stay)"
            }
            Self::Docker => {
                "takes effect with `systemctl reload docker` (or SIGHUP to dockerd); running containers stay"
            }
            Self::Containers => {
                "is read by podman, buildah and skopeo at each pull; CRI-O needs `systemctl reload crio`"
            }
            Self::Buildkit => "is read at the start only: restart buildkitd when no build runs",
            Self::Stargz => {
                "is read at the start only: restart containerd-stargz-grpc; without its FUSE manager, containers \
                 that run from lazily pulled images lose their files, so drain the node first"
            }
            Self::Soci => {
                "is read at the start only: restart soci-snapshotter-grpc; containers that run from lazily pulled \
                 images lose their files, so drain the node first"
            }
            Self::Nydus => {
                "is read at the start only: restart nydus-snapshotter; containers that run keep the nydusd that they \
                 have, and how it reads"
            }
        }
    }
}
