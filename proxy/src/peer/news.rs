//! The stream that says which pieces a node has, line by line.
//!
//! ```text
//! length 536870912
//! have 0+16 40+1
//! inline 1024        followed by so many raw bytes: the whole content
//! ping
//! end                nothing will be added: all is there
//! elsewhere          it is here, from another repository: the registry has to be asked about it first
//! ```
//!
//! Lines are ASCII and end with `\n`. Text rather than frames: it costs a few bytes a piece, and `curl` shows it.

use std::fmt::Write as _;

use darter_types::{PieceLayout, PieceRun};
use thiserror::Error;

/// Longest line, in bytes.
pub const LINE_BYTES_MAX: usize = 4096;
/// Most runs that are written into one line.
const RUNS_PER_LINE: usize = 128;

/// One line of news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Length of the content in bytes.
    Length(u64),
    /// These pieces are there (as well).
    Have(Vec<PieceRun>),
    /// So many bytes follow: the whole content.
    Inline(usize),
    /// The node lives.
    Ping,
    /// Nothing will be added.
    End,
    /// It came from another repository than the one whose right was shown.
    Elsewhere,
}

/// Why bytes are not news.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NewsError {
    /// A line is longer than [`LINE_BYTES_MAX`].
    #[error("a line of news is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// A line does not have one of the forms.
    #[error("not a line of news: {0:?}")]
    Malformed(String),
}

/// Writes pieces as lines that any reader accepts.
pub fn write_have(runs: impl IntoIterator<Item = PieceRun>) -> String {
    let mut text = String::new();
    for (index, run) in runs.into_iter().enumerate() {
        let lead = match index % RUNS_PER_LINE {
            0 if index == 0 => "have",
            0 => "\nhave",
            _ => "",
        };
        // Writing to a String cannot fail.
        let _ = write!(text, "{lead} {}+{}", run.first, run.count);
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

/// Reads news from bytes as they come.
#[derive(Debug, Default)]
pub struct NewsReader {
    buffer: Vec<u8>,
    inline: Vec<u8>,
    inline_missing: usize,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A line. [`News::Inline`] is not reported: [`Item::Content`] is, once it is complete.
    News(News),
    /// The whole content.
    Content(Vec<u8>),
}

impl NewsReader {
    /// Takes in bytes and appends what they complete to `items`.
    pub fn push(&mut self, mut bytes: &[u8], items: &mut Vec<Item>) -> Result<(), NewsError> {
        loop {
            if self.inline_missing > 0 {
                let (part, rest) = bytes.split_at(bytes.len().min(self.inline_missing));
                self.inline.extend_from_slice(part);
                self.inline_missing -= part.len();
                bytes = rest;
                if self.inline_missing > 0 {
                    return Ok(());
                }
                items.push(Item::Content(std::mem::take(&mut self.inline)));
            }
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                self.buffer.extend_from_slice(bytes);
                return if self.buffer.len() > LINE_BYTES_MAX {
                    Err(NewsError::TooLong)
                } else {
                    Ok(())
                };
            };
            let (line, rest) = bytes.split_at(end);
            self.buffer.extend_from_slice(line);
            bytes = rest.get(1..).unwrap_or_default();
            match self.line()? {
                News::Inline(length) => self.inline_missing = length,
                news => items.push(Item::News(news)),
            }
        }
    }

    fn line(&mut self) -> Result<News, NewsError> {
        let line = std::mem::take(&mut self.buffer);
        if line.len() > LINE_BYTES_MAX {
            return Err(NewsError::TooLong);
        }
        let malformed = || NewsError::Malformed(String::from_utf8_lossy(&line).chars().take(64).collect());
        std::str::from_utf8(&line)
            .ok()
            .and_then(parse)
            .ok_or_else(malformed)
    }
}

fn parse(line: &str) -> Option<News> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "ping" => Some(News::Ping),
        "end" => Some(News::End),
        "elsewhere" => Some(News::Elsewhere),
        "length" => {
            Some(News::Length(number(rest)?)).filter(|_| number::<u64>(rest) <= Some(PieceLayout::LENGTH_MAX))
        }
        "inline" => {
            let length: usize = number(rest)?;
            (length > 0 && length as u64 <= super::INLINE_BYTES_MAX).then_some(News::Inline(length))
        }
        "have" => rest
            .split(' ')
            .map(parse_run)
            .collect::<Option<Vec<_>>>()
            .map(News::Have),
        _ => None,
    }
}

fn parse_run(text: &str) -> Option<PieceRun> {
    let (first, count) = text.split_once('+')?;
    let run = PieceRun {
        first: number(first)?,
        count: number(count)?,
    };
    let end = u64::from(run.first) + u64::from(run.count);
    (run.count > 0 && end <= u64::from(PieceLayout::PIECES_MAX)).then_some(run)
}

/// Digits only: `parse` would also take a sign.
fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// Body of the fuzz target: no input makes it panic or keep more than a line and an inline content.
pub fn fuzz_news(data: &[u8]) {
    let mut reader = NewsReader::default();
    for part in data.chunks(7) {
        if reader.push(part, &mut Vec::new()).is_err() {
            return;
        }
        assert!(
            reader.buffer.len() <= LINE_BYTES_MAX && reader.inline.len() as u64 <= super::INLINE_BYTES_MAX
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(parts: &[&[u8]]) -> Result<Vec<Item>, NewsError> {
        let (mut reader, mut items) = (NewsReader::default(), Vec::new());
        for part in parts {
            reader.push(part, &mut items)?;
        }
        Ok(items)
    }

    #[test]
    fn reads_lines_and_inline_content_across_cuts() {
        let text = b"length 5\ninline 5\na\nb\ncend\nping\nhave 0+1 7+2\n";
        let expected = [
            Item::News(News::Length(5)),
            Item::Content(b"a\nb\nc".to_vec()),
            Item::News(News::End),
            Item::News(News::Ping),
            Item::News(News::Have(vec![
                PieceRun::one(0),
                PieceRun { first: 7, count: 2 },
            ])),
        ];
        for cut in 0..text.len() {
            assert_eq!(
                read(&[&text[..cut], &text[cut..]]).unwrap(),
                expected,
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn refuses_what_it_did_not_ask_for() {
        for bad in [
            "have",
            "have ",
            "have 1",
            "have 1+0",
            "have 4294967295+1",
            "have 0+4294967295",
            "have +1+1",
            "length",
            "length -1",
            "length 18446744073709551615",
            "inline 0",
            "inline 65537",
            "inline 4294967296",
            "nonsense",
            "elsewhere?",
            "\u{e4}",
            " ping",
        ] {
            assert!(read(&[bad.as_bytes(), b"\n"]).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(read(&[&[b'h'; LINE_BYTES_MAX], b"aa"]), Err(NewsError::TooLong));
    }

    #[test]
    fn likely_bytes_never_panic() {
        darter_testkit::fuzz::check("news", fuzz_news);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(runs in prop::collection::vec((0u32..1_000_000, 1u32..1000), 0..600)) {
            let runs: Vec<_> = runs.into_iter().map(|(first, count)| PieceRun { first, count }).collect();
            let items = read(&[write_have(runs.iter().copied()).as_bytes()]).unwrap();
            let back: Vec<PieceRun> = items.into_iter().flat_map(|item| match item {
                Item::News(News::Have(runs)) => runs,
                other => panic!("{other:?}"),
            }).collect();
            prop_assert_eq!(back, runs);
        }

        #[test]
        fn never_panics(data in prop::collection::vec(any::<u8>(), 0..6000)) {
            fuzz_news(&data);
        }
    }
}
