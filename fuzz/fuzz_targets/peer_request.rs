//! What another node asks for.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_proxy::peer::fuzz_request(data));
