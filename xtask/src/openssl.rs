//! The system's OpenSSL for the bridge: its crates bring OpenSSL's source otherwise, whose build takes longer than all the
//! rest of them and needs make and perl.

use std::process::{Command, Stdio};

/// What has its headers, in Debian's names.
const PACKAGES: [&str; 2] = ["libssl-dev", "pkg-config"];
/// Read by the build of `openssl-sys`.
const NO_VENDOR: &str = "OPENSSL_NO_VENDOR";

/// Has `cargo` build against the system's OpenSSL where that is there. All calls must agree, or each compiles the bridge anew.
pub(crate) fn prefer(cargo: &mut Command) {
    if is_there() {
        cargo.env(NO_VENDOR, "1");
    }
}

/// Installs it where that can be done; without it the source is built.
pub(crate) fn install() {
    if is_there() || !is_root() {
        return;
    }
    let apt_get = |arguments: &[&str]| {
        let mut apt_get = Command::new("apt-get");
        apt_get.args(arguments).stdin(Stdio::null());
        apt_get.env("DEBIAN_FRONTEND", "noninteractive");
        apt_get.status().is_ok_and(|status| status.success())
    };
    let install = [&["install", "-y", "-q", "--no-install-recommends"][..], &PACKAGES].concat();
    if !(apt_get(&["update", "-q"]) && apt_get(&install)) {
        println!(
            "{} cannot be installed: OpenSSL is built from source",
            PACKAGES.join(" ")
        );
    }
}

fn is_there() -> bool {
    let mut ask = Command::new("pkg-config");
    ask.args(["--exists", "openssl"]).stderr(Stdio::null());
    ask.status().is_ok_and(|status| status.success())
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
