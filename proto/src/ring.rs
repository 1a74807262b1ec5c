//! Which of several schedulers looks after a task, and which of several nodes stands for it: rendezvous
//! hashing (highest random weight), so that every node computes the same answer from the same names, and a
//! name that comes or goes moves only its own tasks.

use darter_types::TaskId;

/// The scheduler that owns `task`; `None` if there are none.
///
/// The order of `schedulers` does not matter.
pub fn owner(schedulers: &[String], task: TaskId) -> Option<&str> {
    schedulers
        .iter()
        .map(String::as_str)
        .max_by_key(|name| (weight(name, task), *name))
}

/// How strongly `name` attracts `task`: of several names the one with the greatest weight owns it.
pub fn weight(name: &str, task: TaskId) -> u64 {
    // FNV-1a over the name, then the finaliser of SplitMix64 over both: a digest is random already, the
    // name is not.
    let name = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(mix(name) ^ task.ring_position())
}

fn mix(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks() -> Vec<TaskId> {
        (0..1_000)
            .map(|n| TaskId::of_url(&format!("http://x/{n}"), "", "", ""))
            .collect()
    }

    fn names(count: u32) -> Vec<String> {
        (0..count).map(|n| format!("10.0.0.{n}:8002")).collect()
    }

    #[test]
    fn nobody_owns_a_task_of_no_schedulers() {
        assert_eq!(owner(&[], tasks()[0]), None);
    }

    #[test]
    fn order_does_not_matter_and_shares_are_even() {
        let ring = names(4);
        let reversed: Vec<String> = ring.iter().rev().cloned().collect();
        let mut shares = std::collections::BTreeMap::new();
        for task in tasks() {
            assert_eq!(owner(&ring, task), owner(&reversed, task));
            *shares.entry(owner(&ring, task)).or_insert(0) += 1;
        }
        assert!(
            shares.values().all(|share| (180..=320).contains(share)),
            "{shares:?}"
        );
    }

    #[test]
    fn a_name_that_goes_moves_only_its_own_tasks() {
        let ring = names(4);
        let smaller = names(3);
        for task in tasks() {
            let before = owner(&ring, task);
            if before != Some("10.0.0.3:8002") {
                assert_eq!(owner(&smaller, task), before);
            }
        }
    }

    #[test]
    fn the_function_is_fixed() {
        // Nodes and schedulers of neighbouring releases must agree.
        assert_eq!(weight("10.0.0.1:8002", tasks()[0]), 13_783_241_901_326_847_900);
    }
}
