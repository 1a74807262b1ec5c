//! A pull as bars, 80 columns wide.

use super::pull::{Pull, Step};

/// Columns of a step's name, of its bar, and of what stands between.
const NAME: usize = 22;
const BAR: usize = 32;

/// Where a step's bytes came from, mostly: the letter of its bar, and a colour.
const CACHE: (char, u8) = ('c', 32);
const PEERS: (char, u8) = ('p', 36);
const ORIGIN: (char, u8) = ('o', 33);
const FAILED: (char, u8) = ('!', 31);

/// All of it.
pub(super) fn draw(pull: &Pull, colour: bool) -> String {
    let mut text = head(pull);
    text += &format!(
        "{:NAME$}0{:>width$}{:>9}{:>8}{:>8}\n",
        "",
        time(pull.took_ms),
        "sent",
        "first",
        "whole",
        width = BAR - 1
    );
    for step in &pull.steps {
        text += &line(step, pull.took_ms, colour);
    }
    let remarks: String = pull.steps.iter().map(remarks).collect();
    if remarks.is_empty() {
        return text;
    }
    format!("{text}\n{remarks}")
}

fn head(pull: &Pull) -> String {
    let sum = |of: fn(&Step) -> u64| pull.steps.iter().map(of).sum::<u64>();
    let (origin, cache) = (sum(|step| step.origin_bytes), sum(|step| step.cache_bytes));
    let peers = sum(|step| step.peers.values().sum());
    let state = if pull.running { "still running" } else { "took" };
    format!(
        "{}: {state} {}, began {} ago\nstore {}, other nodes {}, registry {}\n\n",
        pull.image,
        time(pull.took_ms),
        time(pull.ago_ms),
        size(cache),
        size(peers),
        size(origin),
    )
}

fn line(step: &Step, took_ms: u64, colour: bool) -> String {
    let name = format!("{:<9}{}", step.kind, short(&step.name));
    let (letter, code) = source(step);
    let bar = bar(step, took_ms, letter);
    let bar = match colour {
        true => format!("\x1b[{code}m{bar}\x1b[0m"),
        false => bar,
    };
    let end = step.ended_ms.unwrap_or(took_ms);
    let wait = step.answered_ms.unwrap_or(end).saturating_sub(step.began_ms);
    let told = format!(
        "{:>9}{:>8}{:>8}",
        size(step.sent_bytes),
        time(wait),
        time(end.saturating_sub(step.began_ms))
    );
    format!("{name:<NAME$}{bar}{told}\n")
}

/// The beginning of a digest is enough to tell layers apart.
fn short(name: &str) -> String {
    let name = name.split_once(':').map_or(name, |(_, hex)| hex);
    name.chars().take(12).collect()
}

fn source(step: &Step) -> (char, u8) {
    let peers: u64 = step.peers.values().sum();
    let failed = step.error.is_some() || step.status.is_some_and(|status| status >= 400);
    match (failed, step.origin_bytes, peers, step.cache_bytes) {
        (true, ..) => FAILED,
        (_, 0, 0, 1..) => CACHE,
        (_, origin, peers, cache) if peers > 0 && peers >= origin && peers >= cache => PEERS,
        (_, origin, _, cache) if cache > origin => CACHE,
        // What has no download of its own was asked of the registry.
        _ => ORIGIN,
    }
}

fn bar(step: &Step, took_ms: u64, letter: char) -> String {
    let columns = BAR as u64;
    let column = |moment: u64| moment.min(took_ms) * columns / took_ms.max(1);
    let begin = column(step.began_ms).min(columns - 1);
    let end = column(step.ended_ms.unwrap_or(took_ms)).max(begin + 1);
    let answered = column(step.answered_ms.unwrap_or(took_ms)).clamp(begin, end - 1);
    let cell = |at: u64| match at {
        at if at < begin || at >= end => ' ',
        at if at < answered => '.',
        _ => letter,
    };
    (0..columns).map(cell).collect()
}

/// What a bar cannot show.
fn remarks(step: &Step) -> String {
    let mut text = String::new();
    let name = short(&step.name);
    let mut peers: Vec<(&str, u64)> = step
        .peers
        .iter()
        .map(|(host, bytes)| (host.as_str(), *bytes))
        .collect();
    peers.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let told: Vec<String> = peers
        .iter()
        .map(|(host, bytes)| {
            format!(
                "{} {}",
                if host.is_empty() { "others" } else { host },
                size(*bytes)
            )
        })
        .collect();
    if !told.is_empty() {
        text += &format!("\n{name}: from {}", told.join(", "));
    }
    if let Some(wait) = step.source_wait_ms.filter(|wait| *wait >= 100) {
        text += &format!(
            "\n{name}: its first piece came {} after the scheduler was asked",
            time(wait)
        );
    }
    if let Some(error) = &step.error {
        text += &format!("\n{name}: {error}");
    }
    if let Some(status) = step.status.filter(|status| *status >= 400) {
        text += &format!("\n{name}: answered {status}, the client went on elsewhere");
    }
    match text.is_empty() {
        true => text,
        false => format!("{}\n", text.trim_start()),
    }
}

fn time(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

fn size(bytes: u64) -> String {
    let (unit, shift) = match bytes {
        0..0x400 => return format!("{bytes} B"),
        0x400..0x10_0000 => ("KiB", 10),
        0x10_0000..0x4000_0000 => ("MiB", 20),
        _ => ("GiB", 30),
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::super::pull::{last, tests::journal};
    use super::*;

    #[test]
    fn a_pull_is_drawn() {
        let pull = last(&journal(), &"nginx".parse().unwrap()).unwrap();
        let drawn = draw(&pull, false);
        let expected = include_str!("testdata/nginx.txt");
        assert_eq!(drawn, expected, "{drawn}");
        assert!(drawn.lines().all(|line| line.chars().count() <= 80), "{drawn}");
    }

    #[test]
    fn colour_is_for_terminals() {
        let pull = last(&journal(), &"nginx".parse().unwrap()).unwrap();
        assert!(!draw(&pull, false).contains('\x1b'));
        let coloured = draw(&pull, true);
        assert_eq!(coloured.matches("\x1b[0m").count(), pull.steps.len());
    }

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(
            [size(0), size(1023), size(1536), size(5 << 30)],
            ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]
        );
        assert_eq!(
            [time(999), time(1250), time(61_000), time(7_200_000)],
            ["999 ms", "1.2 s", "1 min", "2 h"]
        );
    }
}
