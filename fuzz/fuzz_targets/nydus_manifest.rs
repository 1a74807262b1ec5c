//! The manifest of a Nydus image.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_nydus_bridge::image::fuzz_manifest(data));
