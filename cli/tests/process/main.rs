//! Roles as processes: started, frozen, killed, replaced; and what they leave behind.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

mod clock;
mod flood;
mod hosts;
mod managed;
mod role;
mod watchdog;
