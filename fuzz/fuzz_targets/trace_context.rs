//! `traceparent` of whoever asks.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| darter_service::trace_context::fuzz_trace_context(data));
