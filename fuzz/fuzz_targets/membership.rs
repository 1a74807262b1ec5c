//! What a manager says to schedulers and nodes.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_proto::convert::fuzz_membership(data));
