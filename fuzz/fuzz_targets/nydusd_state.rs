//! nydusd's state.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_nydus_bridge::nydusd::fuzz_state(data));
