//! The configuration of a proxy and of a scheduler.

#![no_main]

use darter_service::config::fuzz_config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_config::<darter_proxy::config::Config>(data);
    fuzz_config::<darter_scheduler::config::Config>(data);
});
