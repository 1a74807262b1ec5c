//! What a token realm answers.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_origin::fuzz::fuzz_token(data));
