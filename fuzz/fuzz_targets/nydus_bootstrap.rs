//! The metadata of a Nydus image.
//!
//! Nydus's own crates panic on some, which is caught where they are called: so a panic may pass here, unless nobody catches it.

#![no_main]

use std::sync::Once;

static HOOK: Once = Once::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    HOOK.call_once(|| std::panic::set_hook(Box::new(|panic| eprintln!("{panic}"))));
    darter_nydus_bridge::fs::fuzz_bootstrap(data);
});
