//! The index beside a content: what the content is, and which pieces were linked. Pure: bytes in, bytes out.
//!
//! ```text
//! "DARTERIX" | version u32 | length u32 | JSON of that length | crc32 u32 | zeros up to a multiple of 512
//! proved cell | unused, 4 bytes | a cell for each piece | a cell for each border 1 ..= last piece | a sum for each piece
//! ```
//! Numbers are little-endian. The cell of a piece, and the proved cell, is four bytes, aligned, so that it is
//! written whole or not at all: a checksum of the piece's number and of the header, or anything else, which
//! means "no". The cell of a border is 72 bytes: algorithm, three unused bytes, the state, and a crc32 over
//! the header's checksum, the border and all that. The sum of a piece that is only attested is 40 bytes: its SHA-256, a
//! crc32 over the header's checksum, the piece and that, and four unused bytes.
//!
//! What must hold: whatever the bytes are, reading them gives an answer and no panic; a cell that was not
//! written for exactly this task, place and meaning counts as not written; no write moves another cell.

use darter_types::{Algorithm, ChainState, Digest, OriginLocator, PieceLayout, PieceNumber, TaskId};
use serde::{Deserialize, Serialize};

use crate::ContentFacts;

const MAGIC: &[u8; 8] = b"DARTERIX";
const VERSION: u32 = 1;
const PREFIX_BYTES: usize = 16;
const ALIGNMENT: usize = 512;
/// Longest header that is read or written: origin and media type come from the network.
pub(super) const HEADER_MAX: usize = 64 * 1024;
pub(super) const PIECE_CELL: usize = 4;
pub(super) const STATE_CELL: usize = 72;
pub(super) const SUM_CELL: usize = 40;
const STATE_CELL_CHECKED: usize = STATE_CELL - 4;

/// Why the start of an index is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// More bytes are needed to tell.
    Short { needed: usize },
    /// It is no index, or it is damaged.
    Damaged(&'static str),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    task: TaskId,
    length: u64,
    origin: Option<OriginLocator>,
    media_type: Option<String>,
    whole: bool,
    public: bool,
}

/// Where the cells of one index are and what they must hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    header_bytes: u64,
    /// The header's checksum.
    salt: u32,
    pieces: u32,
}

/// The header of a task; `None` if origin and media type are too long to keep.
pub(super) fn encode_header(task: TaskId, facts: &ContentFacts) -> Option<(Vec<u8>, Shape)> {
    let header = Header {
        task,
        length: facts.layout.length(),
        origin: facts.origin.clone(),
        media_type: facts.media_type.clone(),
        whole: facts.whole,
        public: facts.public,
    };
    let json = serde_json::to_vec(&header).ok()?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(u32::try_from(json.len()).ok()?.to_le_bytes());
    bytes.extend(json);
    let salt = crc32(0, &bytes);
    bytes.extend(salt.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    let shape = Shape {
        header_bytes: bytes.len() as u64,
        salt,
        pieces: facts.layout.piece_count(),
    };
    (bytes.len() <= HEADER_MAX).then_some((bytes, shape))
}

/// Reads what [`encode_header`] made from the first bytes of an index.
pub(super) fn decode_header(bytes: &[u8]) -> Result<(TaskId, ContentFacts, Shape), HeaderError> {
    if bytes.len() < PREFIX_BYTES {
        return Err(HeaderError::Short { needed: PREFIX_BYTES });
    }
    if !bytes.starts_with(MAGIC) {
        return Err(HeaderError::Damaged("not an index"));
    }
    if u32_at(bytes, 8) != Some(VERSION) {
        return Err(HeaderError::Damaged("an index of another version"));
    }
    let json_bytes = u32_at(bytes, 12).map_or(usize::MAX, |length| length as usize);
    if json_bytes > HEADER_MAX - PREFIX_BYTES - 4 {
        return Err(HeaderError::Damaged("a header of impossible length"));
    }
    let end = PREFIX_BYTES + json_bytes;
    let (Some(checked), Some(json), Some(salt)) =
        (bytes.get(..end), bytes.get(PREFIX_BYTES..end), u32_at(bytes, end))
    else {
        return Err(HeaderError::Short { needed: end + 4 });
    };
    if crc32(0, checked) != salt {
        return Err(HeaderError::Damaged("a header that fails its checksum"));
    }
    let (task, facts) = read_json(json).ok_or(HeaderError::Damaged("a header that does not parse"))?;
    let shape = Shape {
        header_bytes: (end + 4).next_multiple_of(ALIGNMENT) as u64,
        salt,
        pieces: facts.layout.piece_count(),
    };
    Ok((task, facts, shape))
}

fn read_json(json: &[u8]) -> Option<(TaskId, ContentFacts)> {
    let header: Header = serde_json::from_slice(json).ok()?;
    let facts = ContentFacts {
        layout: PieceLayout::of(header.length).ok()?,
        origin: header.origin,
        media_type: header.media_type,
        whole: header.whole,
        public: header.public,
    };
    Some((header.task, facts))
}

impl Shape {
    /// Where the proved cell is; the cells of all pieces follow [`Self::cells_bytes`] from here.
    pub(super) fn cells_at(&self) -> u64 {
        self.header_bytes
    }

    /// How many pieces there are.
    pub(super) fn pieces(&self) -> u32 {
        self.pieces
    }

    /// Bytes of the proved cell and the cells of all pieces.
    pub(super) fn cells_bytes(&self) -> usize {
        2 * PIECE_CELL + self.pieces as usize * PIECE_CELL
    }

    /// Bytes of the index without the chain.
    pub(super) fn file_bytes(&self) -> u64 {
        self.header_bytes + self.cells_bytes() as u64
    }

    /// What the proved cell holds when the whole was proved.
    pub(super) fn proved_cell(&self) -> [u8; PIECE_CELL] {
        self.cell(b'w', 0)
    }

    pub(super) fn piece_at(&self, piece: PieceNumber) -> u64 {
        self.header_bytes + (2 + u64::from(piece)) * PIECE_CELL as u64
    }

    /// What the cell of `piece` holds when the piece was linked.
    pub(super) fn piece_cell(&self, piece: PieceNumber) -> [u8; PIECE_CELL] {
        self.cell(b'p', piece)
    }

    fn cell(&self, kind: u8, number: u32) -> [u8; PIECE_CELL] {
        let sum = crc32(crc32(self.salt, &[kind]), &number.to_le_bytes());
        // Zeros are what a hole reads as, so they never mean "yes".
        sum.max(1).to_le_bytes()
    }

    /// Reads the cells from what lies at [`Self::cells_at`]; short input lacks the last ones. Gives whether the
    /// whole was proved and the pieces that were linked, in order.
    pub(super) fn read_cells(&self, bytes: &[u8]) -> (bool, impl Iterator<Item = PieceNumber>) {
        let cells = bytes.as_chunks::<PIECE_CELL>().0;
        let proved = cells.first() == Some(&self.proved_cell());
        let pieces = cells.iter().skip(2).zip(0..self.pieces);
        let linked = pieces.filter(|(cell, piece)| **cell == self.piece_cell(*piece));
        (proved, linked.map(|(_, piece)| piece))
    }

    /// Where the cell of `border` is, counted from 1.
    pub(super) fn state_at(&self, border: u32) -> u64 {
        let before = u64::from(border.saturating_sub(1));
        self.file_bytes() + before * STATE_CELL as u64
    }

    pub(super) fn state_cell(&self, border: u32, state: ChainState) -> [u8; STATE_CELL] {
        let mut cell = [0; STATE_CELL];
        let raw = state.to_bytes();
        let body = std::iter::once(algorithm_code(state.algorithm()))
            .chain([0; 3])
            .chain(raw);
        cell.iter_mut().zip(body).for_each(|(slot, byte)| *slot = byte);
        let sum = self.state_sum(border, cell.first_chunk().unwrap_or(&[0; STATE_CELL_CHECKED]));
        if let Some(end) = cell.last_chunk_mut() {
            *end = sum.to_le_bytes();
        }
        cell
    }

    pub(super) fn read_state(&self, border: u32, cell: &[u8; STATE_CELL]) -> Option<ChainState> {
        let body: &[u8; STATE_CELL_CHECKED] = cell.first_chunk()?;
        if cell.last_chunk() != Some(&self.state_sum(border, body).to_le_bytes()) {
            return None;
        }
        let algorithm = match body.first()? {
            1 => Algorithm::Sha256,
            2 => Algorithm::Sha512,
            _ => return None,
        };
        ChainState::from_bytes(algorithm, body.get(4..4 + algorithm.digest_bytes())?)
    }

    /// Where the sum of `piece` is.
    pub(super) fn sum_at(&self, piece: PieceNumber) -> u64 {
        self.state_at(self.pieces.max(1)) + u64::from(piece) * SUM_CELL as u64
    }

    pub(super) fn sum_cell(&self, piece: PieceNumber, sum: Digest) -> [u8; SUM_CELL] {
        let mut cell = [0; SUM_CELL];
        let check = self.sum_check(piece, sum.hash()).to_le_bytes();
        let body = sum.hash().iter().chain(&check);
        cell.iter_mut().zip(body).for_each(|(slot, byte)| *slot = *byte);
        cell
    }

    pub(super) fn read_sum(&self, piece: PieceNumber, cell: &[u8; SUM_CELL]) -> Option<Digest> {
        let (hash, rest) = cell.split_at_checked(Algorithm::Sha256.digest_bytes())?;
        let check = self.sum_check(piece, hash).to_le_bytes();
        (rest.first_chunk() == Some(&check))
            .then(|| Digest::new(Algorithm::Sha256, hash))
            .flatten()
    }

    fn sum_check(&self, piece: PieceNumber, hash: &[u8]) -> u32 {
        crc32(crc32(crc32(self.salt, b"s"), &piece.to_le_bytes()), hash)
    }

    fn state_sum(&self, border: u32, body: &[u8; STATE_CELL_CHECKED]) -> u32 {
        crc32(crc32(self.salt, &border.to_le_bytes()), body)
    }
}

/// The body of a fuzz target: any bytes as the index of a content.
///
/// # Panics
/// If a header is taken that is written differently, or a piece that the layout does not have.
pub fn fuzz_index(data: &[u8]) {
    read_all(data);
    // Nothing that was changed passes the checksum: what would have to be said if it did is looked at as well.
    let mut repaired = data.to_vec();
    let end = u32_at(data, 12).map(|length| PREFIX_BYTES.saturating_add(length as usize));
    if let Some((end, checked)) = end.and_then(|end| Some((end, data.get(..end)?)))
        && let Some(sum) = repaired.get_mut(end..).and_then(|rest| rest.first_chunk_mut())
    {
        *sum = crc32(0, checked).to_le_bytes();
        read_all(&repaired);
    }
}

fn read_all(data: &[u8]) {
    let Ok((task, facts, shape)) = decode_header(data) else {
        return;
    };
    let written = encode_header(task, &facts);
    let again = written.as_ref().and_then(|(bytes, _)| decode_header(bytes).ok());
    assert!(
        again.is_some_and(|(named, read, _)| named == task && read == facts),
        "{facts:?} of {task} reads back otherwise"
    );
    let at = usize::try_from(shape.cells_at()).unwrap_or(usize::MAX);
    let (_, pieces) = shape.read_cells(data.get(at..).unwrap_or_default());
    assert!(
        pieces.into_iter().all(|piece| piece < facts.layout.piece_count()),
        "a piece that is none"
    );
    let at = usize::try_from(shape.file_bytes()).unwrap_or(usize::MAX);
    let cells = data.get(at..).unwrap_or_default().as_chunks::<STATE_CELL>().0;
    for (border, cell) in (1..).zip(cells) {
        let kept = shape.read_state(border, cell);
        assert!(
            kept.is_none_or(|state| shape.read_state(border, &shape.state_cell(border, state)) == Some(state)),
            "a state that reads back otherwise"
        );
    }
}

fn algorithm_code(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|raw| u32::from_le_bytes(*raw))
}

/// CRC-32 as IEEE 802.3 has it, reflected, polynomial 0x04C11DB7, continued from `sum`.
fn crc32(sum: u32, bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!sum, |sum, byte| {
        let at = (sum ^ u32::from(*byte)) & 0xff;
        CRC_TABLE.get(at as usize).copied().unwrap_or_default() ^ (sum >> 8)
    })
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte: u32 = 0;
    while byte < 256 {
        let mut sum = byte;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 {
                (sum >> 1) ^ 0xEDB8_8320
            } else {
                sum >> 1
            };
            bit += 1;
        }
        table[byte as usize] = sum;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests;
