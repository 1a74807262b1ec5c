//! The path and query of a client.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_proxy::mirror::path::fuzz_path(data));
