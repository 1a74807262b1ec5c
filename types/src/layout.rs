//! How a content is cut into pieces: the same on every node, from its length alone.

use thiserror::Error;

use crate::ByteRange;

/// Number of a piece within its content, from 0.
pub type PieceNumber = u32;

/// The cut of one content: pieces of equal length, the last one short.
///
/// The piece length is `clamp(next_power_of_two(length / 1024), 256 KiB, 4 MiB)`, so it is always a
/// multiple of every hash's block and a content has at most [`PieceLayout::PIECES_MAX`] pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PieceLayout {
    length: u64,
    piece_length: u32,
}

/// Why a length has no layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a content of {length_bytes} bytes is longer than the {} bytes that can be shared",
    PieceLayout::LENGTH_MAX
)]
pub struct LayoutError {
    /// The length that was refused.
    pub length_bytes: u64,
}

impl PieceLayout {
    /// Shortest piece, in bytes.
    pub const PIECE_MIN: u32 = 256 * 1024;
    /// Longest piece, in bytes.
    pub const PIECE_MAX: u32 = 4 * 1024 * 1024;
    /// Most pieces that a content may have. It bounds every bitmap and list that comes from the network.
    pub const PIECES_MAX: u32 = 1 << 20;
    /// Longest content, in bytes (4 TiB).
    pub const LENGTH_MAX: u64 = Self::PIECES_MAX as u64 * Self::PIECE_MAX as u64;

    /// The layout of a content of `length` bytes.
    pub fn of(length: u64) -> Result<Self, LayoutError> {
        if length > Self::LENGTH_MAX {
            return Err(LayoutError { length_bytes: length });
        }
        let ideal = (length / 1024).next_power_of_two();
        let clamped = ideal.clamp(u64::from(Self::PIECE_MIN), u64::from(Self::PIECE_MAX));
        Ok(Self {
            length,
            piece_length: u32::try_from(clamped).unwrap_or(Self::PIECE_MAX),
        })
    }

    /// Length of the content in bytes.
    pub fn length(self) -> u64 {
        self.length
    }

    /// Length of every piece but the last, in bytes.
    pub fn piece_length(self) -> u32 {
        self.piece_length
    }

    /// How many pieces there are. An empty content has one, empty, piece: it too must be proved.
    pub fn piece_count(self) -> u32 {
        let count = self.length.div_ceil(u64::from(self.piece_length)).max(1);
        u32::try_from(count).unwrap_or(Self::PIECES_MAX)
    }

    /// Number of the last piece.
    pub fn last_piece(self) -> PieceNumber {
        self.piece_count() - 1
    }

    /// The bytes of a piece; empty if there is no such piece.
    pub fn piece_range(self, piece: PieceNumber) -> ByteRange {
        let start = u64::from(piece)
            .saturating_mul(u64::from(self.piece_length))
            .min(self.length);
        ByteRange::new(start, (start + u64::from(self.piece_length)).min(self.length))
    }

    /// The bytes of a run of pieces, cut off at the end of the content.
    pub fn run_range(self, run: crate::PieceRun) -> ByteRange {
        ByteRange::new(
            self.piece_range(run.first).start,
            self.piece_range(run.end().saturating_sub(1)).end,
        )
    }

    /// The piece that holds the byte at `offset`; the last piece for anything behind the end.
    pub fn piece_at(self, offset: u64) -> PieceNumber {
        let piece = offset / u64::from(self.piece_length);
        u32::try_from(piece).unwrap_or(u32::MAX).min(self.last_piece())
    }

    /// The pieces that hold any byte of `range`, as a run; empty for an empty range.
    pub fn pieces_of(self, range: ByteRange) -> crate::PieceRun {
        if range.is_empty() || range.start >= self.length {
            return crate::PieceRun {
                first: self.piece_at(range.start),
                count: 0,
            };
        }
        let first = self.piece_at(range.start);
        crate::PieceRun {
            first,
            count: self.piece_at(range.end - 1) - first + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn piece_length_follows_the_content_length() {
        for (length, piece) in [
            (0, 256 * 1024),
            (1, 256 * 1024),
            (256 * MIB, 256 * 1024),
            (512 * MIB, 512 * 1024),
            (1024 * MIB, MIB),
            (4096 * MIB, 4 * MIB),
            (100 * 1024 * MIB, 4 * MIB),
        ] {
            let layout = PieceLayout::of(length).unwrap();
            assert_eq!(u64::from(layout.piece_length()), piece, "length {length}");
        }
    }

    #[test]
    fn refuses_what_would_have_too_many_pieces() {
        assert!(PieceLayout::of(PieceLayout::LENGTH_MAX).is_ok());
        assert!(PieceLayout::of(PieceLayout::LENGTH_MAX + 1).is_err());
        assert!(PieceLayout::of(u64::MAX).is_err());
    }

    #[test]
    fn an_empty_content_has_one_empty_piece() {
        let layout = PieceLayout::of(0).unwrap();
        assert_eq!(layout.piece_count(), 1);
        assert!(layout.piece_range(0).is_empty());
    }

    proptest! {
        #[test]
        fn pieces_cover_the_content_without_gap_or_overlap(length in 0..64 * MIB) {
            let layout = PieceLayout::of(length).unwrap();
            let mut offset = 0;
            for piece in 0..layout.piece_count() {
                let range = layout.piece_range(piece);
                prop_assert_eq!(range.start, offset);
                prop_assert!(range.len() <= u64::from(layout.piece_length()));
                offset = range.end;
            }
            prop_assert_eq!(offset, length);
        }

        #[test]
        fn pieces_of_a_range_hold_all_its_bytes(length in 1..64 * MIB, a in 0..64 * MIB, b in 0..64 * MIB) {
            let layout = PieceLayout::of(length).unwrap();
            let range = ByteRange::new(a.min(b), a.max(b)).intersect(ByteRange::new(0, length));
            let run = layout.pieces_of(range);
            if !range.is_empty() {
                prop_assert!(layout.run_range(run).start <= range.start);
                prop_assert!(layout.run_range(run).end >= range.end);
                prop_assert_eq!(layout.piece_at(range.start), run.first);
            } else {
                prop_assert_eq!(run.count, 0);
            }
        }
    }
}
