//! Where requests begin and end on a connection.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_service::http_server::fuzz_heads(data));
