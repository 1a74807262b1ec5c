//! Bars of the main job, each tried a few times: `cargo xtask faults --full` tries them as often as they say.

use anyhow::Result;
use darter_e2e::faults::holds;

/// A peer that lies is found out by one piece, and blocked; four of them change nothing but the source.
#[test]
fn peers_that_lie() -> Result<()> {
    holds("1")?;
    holds("2")?;
    holds("4")
}

/// Parents that fall silent are replaced; a client is never kept waiting for them.
#[test]
fn peers_that_say_nothing() -> Result<()> {
    holds("41a")?;
    holds("43")
}

/// What a registry gets wrong is neither kept nor announced; what it breaks off is resumed.
#[test]
fn registries_that_lie_or_break_off() -> Result<()> {
    holds("6")?;
    holds("61")
}

/// What is no manifest, or too large a one, is passed on or refused as the client expects.
#[test]
fn registries_that_send_no_manifests() -> Result<()> {
    holds("12")
}

/// Whoever refuses the rest of a content for good is not asked for long: the client goes on at its next host.
#[test]
fn sources_that_break_off_for_good() -> Result<()> {
    holds("50")
}

/// Without a scheduler, or when it goes in mid-pull, nobody waits for what only it passes on.
#[test]
fn the_scheduler_goes() -> Result<()> {
    holds("69")
}

/// The node's own proxy is killed at ever other moments of a pull, and started again on what its store kept.
#[test]
fn the_proxy_is_killed() -> Result<()> {
    holds("48")?;
    holds("64")
}

/// A byte on the disk changes.
#[test]
fn the_store_rots() -> Result<()> {
    holds("5")
}

/// Contents of one registry are not another's, and a tag is what its registry says now.
#[test]
fn registries_and_tags_are_told_apart() -> Result<()> {
    holds("7")?;
    holds("10")
}

/// The node's own proxy stands still in the middle of a pull.
#[test]
fn the_proxy_is_frozen() -> Result<()> {
    holds("49")
}

/// A registry that ignores ranges, has another content in the middle, or whose signed addresses run out.
#[test]
fn registries_that_change_their_mind() -> Result<()> {
    holds("62")
}

/// What the node has is served without its registry, to containerd as well.
#[test]
fn the_registry_is_down() -> Result<()> {
    holds("63")
}

/// Who may not read a private content hears of it what its registry says, whoever has pulled it before.
#[test]
fn private_contents() -> Result<()> {
    holds("13")?;
    holds("14")
}
