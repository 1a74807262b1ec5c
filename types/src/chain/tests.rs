//! The chain against the reference hash: any order, any flipped bit, any forged link.

use proptest::prelude::*;
use sha2::Digest as _;

use super::*;

fn reference(algorithm: Algorithm, data: &[u8]) -> Digest {
    let raw = match algorithm {
        Algorithm::Sha256 => sha2::Sha256::digest(data).to_vec(),
        Algorithm::Sha512 => sha2::Sha512::digest(data).to_vec(),
    };
    Digest::new(algorithm, &raw).unwrap()
}

fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    std::iter::repeat_with(|| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_be_bytes()[3]
    })
    .take(length)
    .collect()
}

/// The whole chain of `data`, as the node that reads the origin computes it.
fn author(algorithm: Algorithm, data: &[u8]) -> Chain {
    let layout = PieceLayout::of(data.len() as u64).unwrap();
    let mut chain = Chain::new(reference(algorithm, data), layout);
    let mut hasher = PieceHasher::start(algorithm);
    for piece in 0..layout.last_piece() {
        let range = layout.piece_range(piece);
        hasher.update(&data[range.indices()]);
        chain.extend(piece + 1, &[hasher.state().unwrap()]).unwrap();
    }
    chain
}

fn piece(layout: PieceLayout, data: &[u8], number: PieceNumber) -> &[u8] {
    let range = layout.piece_range(number);
    &data[range.indices()]
}

fn algorithms() -> impl Strategy<Value = Algorithm> {
    prop_oneof![Just(Algorithm::Sha256), Just(Algorithm::Sha512)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn hashes_as_the_standard_says_however_it_is_fed(
        algorithm in algorithms(), length in 0usize..2000, cuts in prop::collection::vec(0usize..300, 0..12)
    ) {
        let data = bytes(length, 7);
        let mut hasher = PieceHasher::start(algorithm);
        let mut rest = &data[..];
        for cut in cuts {
            let (head, tail) = rest.split_at(cut.min(rest.len()));
            hasher.update(head);
            rest = tail;
        }
        hasher.update(rest);
        prop_assert_eq!(hasher.digest(), reference(algorithm, &data));
    }

    #[test]
    fn every_piece_links_in_any_order(algorithm in algorithms(), length in 0usize..1_500_000, seed in any::<u64>()) {
        let data = bytes(length, seed);
        let chain = author(algorithm, &data);
        prop_assert!(chain.is_complete());
        let layout = chain.layout();
        for number in (0..layout.piece_count()).rev() {
            prop_assert!(chain.proof(number).unwrap().links(piece(layout, &data, number)));
        }
        prop_assert!(chain.proof(layout.piece_count()).is_none());
    }

    #[test]
    fn any_flipped_bit_is_caught(algorithm in algorithms(), length in 1usize..1_000_000, at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let data = bytes(length, 3);
        let chain = author(algorithm, &data);
        let mut wrong = data.clone();
        let at = at.index(length);
        wrong[at] ^= 1 << bit;
        let number = chain.layout().piece_at(at as u64);
        prop_assert!(!chain.proof(number).unwrap().links(piece(chain.layout(), &wrong, number)));
    }

    #[test]
    fn a_forged_border_breaks_the_pieces_on_both_sides(algorithm in algorithms(), border in 1u32..4, flip in 0u8..64) {
        let data = bytes(1_048_577, 11);
        let honest = author(algorithm, &data);
        let layout = honest.layout();
        let mut raw = honest.states[border as usize].to_bytes();
        let index = usize::from(flip) % raw.len();
        raw[index] ^= 1;
        let mut forged = Chain::new(honest.digest(), layout);
        let mut states = honest.states.clone();
        states[border as usize] = ChainState::from_bytes(algorithm, &raw).unwrap();
        forged.extend(0, &states).unwrap();
        prop_assert!(!forged.proof(border - 1).unwrap().links(piece(layout, &data, border - 1)));
        prop_assert!(!forged.proof(border).unwrap().links(piece(layout, &data, border)));
        let conflict = forged.extend(border, &[honest.states[border as usize]]);
        let is_conflict = matches!(conflict, Err(ChainError::Conflict { border: at, .. }) if at == border);
        prop_assert!(is_conflict);
    }

    #[test]
    fn a_wrong_content_with_a_matching_chain_fails_at_the_last_piece(length in 1usize..1_000_000) {
        // A liar can make states that fit his bytes, but not the last link: that is the digest itself.
        let truth = bytes(length, 1);
        let lie = bytes(length, 2);
        let mut chain = author(Algorithm::Sha256, &lie);
        chain.digest = reference(Algorithm::Sha256, &truth);
        let layout = chain.layout();
        let last = layout.last_piece();
        for number in 0..last {
            prop_assert!(chain.proof(number).unwrap().links(piece(layout, &lie, number)));
        }
        prop_assert!(!chain.proof(last).unwrap().links(piece(layout, &lie, last)));
    }
}

#[test]
fn a_short_or_long_piece_does_not_link() {
    let data = bytes(700_000, 5);
    let chain = author(Algorithm::Sha256, &data);
    let proof = chain.proof(0).unwrap();
    let first = piece(chain.layout(), &data, 0);
    assert!(!proof.links(&first[..first.len() - 1]));
    assert!(!proof.links(&data[..first.len() + 64]));
    assert!(!chain.proof(2).unwrap().links(&[]));
}

#[test]
fn states_need_no_gap_and_the_right_algorithm() {
    let data = bytes(1_000_000, 5);
    let full = author(Algorithm::Sha256, &data);
    let mut chain = Chain::new(full.digest(), full.layout());
    assert!(matches!(
        chain.extend(2, full.states_from(2)),
        Err(ChainError::Gap {
            known: 1,
            first: 2,
            ..
        })
    ));
    let other = ChainState::initial(Algorithm::Sha512);
    assert!(matches!(
        chain.extend(1, &[other]),
        Err(ChainError::Malformed { border: 1, .. })
    ));
    let beyond = vec![full.states[1]; 9];
    assert!(chain.extend(1, &beyond).is_err());
    assert_eq!(chain.known(), 1, "a refused list leaves nothing behind");
    assert!(chain.proof(0).is_none() && chain.proof(3).is_none());
    chain.extend(0, full.states_from(0)).unwrap();
    assert_eq!(chain, full);
}

#[test]
fn states_read_back_and_have_one_length() {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let state = ChainState::initial(algorithm);
        let raw = state.to_bytes();
        assert_eq!(ChainState::from_bytes(algorithm, &raw), Some(state));
        assert_eq!(ChainState::from_bytes(algorithm, &raw[1..]), None);
    }
}
