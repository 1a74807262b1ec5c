//! What a scheduler or node says to a manager.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_proto::convert::fuzz_instance(data));
