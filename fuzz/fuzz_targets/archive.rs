//! The archive of a layer that is converted.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_nydus_bridge::convert::fuzz_archive(data));
