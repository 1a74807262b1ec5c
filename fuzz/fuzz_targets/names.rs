//! Names of contents, registries, repositories, tags and hosts.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_types::fuzz::fuzz_names(data));
