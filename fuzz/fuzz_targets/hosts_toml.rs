//! containerd's `hosts.toml`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_containerd_config::containerd::fuzz_hosts(data));
