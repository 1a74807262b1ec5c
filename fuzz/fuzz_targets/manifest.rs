//! A manifest of a registry.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_proxy::mirror::manifest::fuzz_document(data));
