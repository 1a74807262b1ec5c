//! The system's OpenSSL for the bridge: its crates bring OpenSSL's source otherwise, whose build takes longer than all the
//! rest of them and needs make and perl.

use std::process::{Command, Stdio};

use crate::apt;

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
    if !is_there() && apt::is_root() && !apt::install(&PACKAGES) {
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
