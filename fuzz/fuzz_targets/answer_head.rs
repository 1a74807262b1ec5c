//! `Content-Range` and the other headers of a registry's answer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_origin::fuzz::fuzz_head(data));
