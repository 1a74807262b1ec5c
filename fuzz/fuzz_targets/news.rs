//! What another node says about its pieces.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_proxy::peer::news::fuzz_news(data));
