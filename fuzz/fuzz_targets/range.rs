//! The `Range` of a client.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_proxy::mirror::range::fuzz_range(data));
