//! The index reads back what was written, and survives whatever a crash or a bad disk leaves of it.

use super::*;
use crate::conformance::{facts, task};
use proptest::prelude::*;

const BORDER: u32 = 3;

#[test]
fn the_checksum_is_that_of_ieee_802_3() {
    assert_eq!(crc32(0, b"123456789"), 0xCBF4_3926);
    assert_eq!(crc32(crc32(0, b"1234"), b"56789"), 0xCBF4_3926);
}

#[test]
fn refuses_what_would_be_too_long_to_read() {
    let mut long = facts(1, true);
    long.media_type = Some("x".repeat(HEADER_MAX));
    assert!(encode_header(task(1), &long).is_none());
}

#[test]
fn no_cell_means_yes_in_another_place_or_task() {
    let shapes = [task(1), task(2)].map(|task| encode_header(task, &facts(1 << 20, true)).unwrap().1);
    let mut cells = std::collections::BTreeSet::new();
    for shape in shapes {
        cells.insert(shape.proved_cell());
        cells.extend((0..4).map(|piece| shape.piece_cell(piece)));
    }
    assert_eq!(cells.len(), 10);
    assert!(!cells.contains(&[0; 4]));
    let state = ChainState::Sha512([7; 8]);
    let cell = shapes[0].state_cell(BORDER, state);
    assert_eq!(shapes[0].read_state(BORDER, &cell), Some(state));
    assert_eq!(shapes[0].read_state(BORDER + 1, &cell), None);
    assert_eq!(shapes[1].read_state(BORDER, &cell), None);
    assert_eq!(shapes[0].read_state(BORDER, &[0; STATE_CELL]), None);
}

#[test]
fn places_do_not_overlap() {
    let (header, shape) = encode_header(task(1), &facts(10 << 20, true)).unwrap();
    assert_eq!(header.len() as u64, shape.cells_at());
    assert!(shape.cells_at().is_multiple_of(4), "cells are aligned");
    assert_eq!(shape.piece_at(0), shape.cells_at() + 8);
    assert_eq!(shape.piece_at(40), shape.file_bytes());
    assert_eq!(shape.state_at(1), shape.file_bytes());
    assert_eq!(shape.state_at(3) - shape.state_at(2), STATE_CELL as u64);
}

proptest! {
    #[test]
    fn reads_back_what_it_writes(length in 0u64..1 << 40, whole: bool, public: bool, media_type in prop::option::of(".{0,40}")) {
        let given = ContentFacts { public, media_type, ..facts(length, whole) };
        let (bytes, shape) = encode_header(task(1), &given).unwrap();
        let (name, found, again) = decode_header(&bytes).unwrap();
        prop_assert_eq!((name, found), (task(1), given));
        prop_assert_eq!(again.cells_at(), shape.cells_at());
        prop_assert_eq!(again.proved_cell(), shape.proved_cell());
    }

    #[test]
    fn asks_for_more_of_a_header_until_it_has_it_all(cut in 0usize..600) {
        let (bytes, _) = encode_header(task(1), &facts(1, true)).unwrap();
        match decode_header(&bytes[..cut.min(bytes.len())]) {
            Ok(found) => prop_assert_eq!(found.0, task(1)),
            Err(HeaderError::Short { needed }) => prop_assert!(needed > cut && needed <= bytes.len()),
            Err(HeaderError::Damaged(reason)) => prop_assert!(false, "{}", reason),
        }
    }

    #[test]
    fn a_changed_header_is_refused(at in 0usize..1000, flip in 1u8..) {
        let (mut bytes, _) = encode_header(task(1), &facts(1, true)).unwrap();
        let json = u32_at(&bytes, 12).unwrap() as usize;
        let at = at % (PREFIX_BYTES + json + 4);
        bytes[at] ^= flip;
        prop_assert!(decode_header(&bytes).is_err());
    }

    #[test]
    fn never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..300), magic: bool) {
        if magic {
            let head = [MAGIC.as_slice(), &VERSION.to_le_bytes(), &100u32.to_le_bytes()].concat();
            bytes.splice(0..0, head);
        }
        prop_assert!(decode_header(&bytes).is_err());
        let (_, shape) = encode_header(task(1), &facts(1 << 20, true)).unwrap();
        let (proved, pieces) = shape.read_cells(&bytes);
        prop_assert!(!proved);
        prop_assert_eq!(pieces.count(), 0);
        if let Some(cell) = bytes.first_chunk() {
            prop_assert_eq!(shape.read_state(BORDER, cell), None);
        }
    }
}

#[test]
fn likely_bytes_never_panic() {
    darter_testkit::fuzz::check("store_index", fuzz_index);
}
