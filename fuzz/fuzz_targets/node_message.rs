//! What a node says to a scheduler.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_proto::convert::fuzz_node_message(data));
