//! What a scheduler says to a node.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_proto::convert::fuzz_scheduler_message(data));
