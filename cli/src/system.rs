//! What the binary asks of the operating system: its name, its threads, its terminal, its secrets kept.

use std::ffi::OsString;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use darter_service::notify::{NOTIFY_SOCKET, Notifier};
use darter_service::shutdown::Stop;
use darter_types::HostId;
use rand::TryRng as _;
use rand::rngs::SysRng;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Set to 1, it leaves core dumps and debuggers alone.
const CORE_DUMPS: &str = "DARTER_CORE_DUMPS";

/// Tokens of callers pass through this memory: no core dump, no debugger of the same user, unless somebody asks for them.
/// It is a second fence, so a kernel that does not know it is no reason to stop.
pub(crate) fn harden(env: impl Fn(&str) -> Option<OsString>) {
    if env(CORE_DUMPS).is_none_or(|value| value != "1") {
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        let _ = setrlimit(Resource::Core, none);
    }
}

/// Prints to standard output. A reader that has seen enough (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

/// The machine's name, as a node's name.
pub(crate) fn host_name() -> Result<HostId> {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .to_lowercase();
    name.parse().with_context(|| {
        format!("the machine's name {name:?} cannot name a node: give one with --set host=NAME, or `host` in the file")
    })
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where a user who is not root keeps data: `$XDG_DATA_HOME/darter`, else `~/.local/share/darter`; root: `/var/lib/darter`.
pub(crate) fn data_dir(is_root: bool, env: impl Fn(&str) -> Option<String>) -> Result<PathBuf> {
    if is_root {
        return Ok(PathBuf::from("/var/lib/darter"));
    }
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(data) = absolute("XDG_DATA_HOME") {
        return Ok(data.join("darter"));
    }
    match absolute("HOME") {
        Some(home) => Ok(home.join(".local/share/darter")),
        None => bail!("neither XDG_DATA_HOME nor HOME is set: say where to keep data with --store DIR"),
    }
}

/// A secret that nobody can foresee, from the operating system itself: it is no number of a generator whose others are
/// published.
pub(crate) fn secret() -> Result<[u8; 32]> {
    let mut secret = [0; 32];
    SysRng
        .try_fill_bytes(&mut secret)
        .context("the operating system gives no random bytes, and secrets are made of them")?;
    Ok(secret)
}

/// Another number at each start, for choices by chance.
pub(crate) fn random() -> u64 {
    rand::random()
}

/// Who started this process and wants to hear how it is.
pub(crate) fn notifier() -> Result<Notifier> {
    let name = std::env::var_os(NOTIFY_SOCKET);
    Notifier::new(name.as_deref()).context("cannot tell the supervisor how this process is")
}

/// Runs `work` to its end on all cores, and hands it what the first SIGINT, SIGTERM or SIGUSR2 asks for.
pub(crate) fn run_until_signalled<F>(work: impl FnOnce(Stop) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads of the process")?;
    runtime.block_on(async {
        let stop = darter_service::shutdown::on_signals().context("cannot listen for signals")?;
        work(stop).await
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(is_root: bool, set: &[(&str, &str)]) -> Option<String> {
        let env = |name: &str| {
            let found = set.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        data_dir(is_root, env).ok().map(|path| path.display().to_string())
    }

    #[test]
    fn data_lies_where_its_user_may_write() {
        let home = ("HOME", "/home/me");
        assert_eq!(dir(true, &[home]).as_deref(), Some("/var/lib/darter"));
        assert_eq!(
            dir(false, &[home]).as_deref(),
            Some("/home/me/.local/share/darter")
        );
        let xdg = ("XDG_DATA_HOME", "/data");
        assert_eq!(dir(false, &[home, xdg]).as_deref(), Some("/data/darter"));
        assert_eq!(dir(false, &[("XDG_DATA_HOME", "relative")]), None);
    }

    #[test]
    fn memory_is_not_dumped_unless_somebody_asks() {
        let dumpable = || rustix::process::dumpable_behavior().unwrap() == DumpableBehavior::Dumpable;
        harden(|_| Some("1".into()));
        assert!(dumpable());
        harden(|_| None);
        assert!(!dumpable());
    }

    #[test]
    fn this_machine_has_a_name() {
        let name = host_name().unwrap();
        assert_eq!(name.as_str(), name.as_str().to_lowercase());
    }
}
