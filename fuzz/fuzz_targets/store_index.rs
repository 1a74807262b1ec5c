//! The index beside a content on disk.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_store::fuzz_index(data));
