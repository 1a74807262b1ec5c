//! `WWW-Authenticate` of a registry.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_origin::fuzz::fuzz_challenge(data));
