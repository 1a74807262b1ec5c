//! A layer as the builder reads it: an ordinary archive, out of a pipe. Nothing that is unpacked comes to disk.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::thread;

use super::progress::LayerProgress;

/// Longest layer, unpacked.
const UNPACKED_BYTES_MAX: u64 = 1 << 40;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packed {
    Gzip,
    Zstd,
    Not,
}

/// How the layer in a file is compressed, by its first bytes: media types are not always right.
pub(super) fn packed(layer: &mut File) -> io::Result<Packed> {
    let mut magic = [0; 4];
    let mut length = 0;
    while let Some(rest) = magic.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match layer.read(rest)? {
            0 => break,
            count => length += count,
        }
    }
    layer.rewind()?;
    Ok(if magic.starts_with(GZIP) {
        Packed::Gzip
    } else if magic.starts_with(ZSTD) {
        Packed::Zstd
    } else {
        Packed::Not
    })
}

/// Counts what is read of a file.
struct Counted {
    file: File,
    told: LayerProgress,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.told.add(count as u64);
        Ok(count)
    }
}

/// The layer's archive.
pub(super) fn unpacked(
    layer: File,
    packed: Packed,
    told: &LayerProgress,
) -> io::Result<Box<dyn Read + Send>> {
    let reader = BufReader::with_capacity(
        1 << 16,
        Counted {
            file: layer,
            told: told.clone(),
        },
    );
    Ok(match packed {
        Packed::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Packed::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(reader)?),
        Packed::Not => Box::new(reader),
    })
}

/// Lets `build` read what `feed` makes of the layer, unpacked, at a path that is good until it is done. Gives what both
/// gave, unless the layer could not be unpacked.
pub(super) fn piped<T, F: Send>(
    reader: impl Read + Send,
    feed: impl FnOnce(&mut dyn Read, File) -> io::Result<F> + Send,
    build: impl FnOnce(PathBuf) -> anyhow::Result<T>,
) -> anyhow::Result<(T, F)> {
    let (out, into) = io::pipe()?;
    let (out, into): (OwnedFd, OwnedFd) = (out.into(), into.into());
    thread::scope(|scope| {
        let feeding = scope.spawn(|| bounded(reader, feed, into.into()));
        let built = build(PathBuf::from(format!("/proc/self/fd/{}", out.as_raw_fd())));
        // Ends the feeding, if the builder gave up early.
        drop(out);
        let fed = feeding
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("unpacking it failed")));
        match (built, fed) {
            (Err(built), Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Err(built),
            (_, Err(error)) => Err(error.into()),
            (built, Ok(fed)) => Ok((built?, fed)),
        }
    })
}

fn bounded<F>(
    reader: impl Read,
    feed: impl FnOnce(&mut dyn Read, File) -> io::Result<F>,
    into: File,
) -> io::Result<F> {
    let mut reader = reader.take(UNPACKED_BYTES_MAX);
    let fed = feed(&mut reader, into);
    if reader.limit() == 0 {
        return Err(io::Error::other(format!(
            "it has more than {UNPACKED_BYTES_MAX} bytes, unpacked"
        )));
    }
    fed
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    fn copy(reader: &mut dyn Read, mut into: File) -> io::Result<u64> {
        io::copy(reader, &mut into)
    }

    fn read(layer: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut layer = file(layer);
        let packed = packed(&mut layer)?;
        let reader = unpacked(layer, packed, &LayerProgress::default())?;
        let read = piped(reader, copy, |path| Ok(std::fs::read(path)?))?;
        Ok(read.0)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn layers_come_unpacked_however_they_are_packed() {
        let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let (first, second) = content.split_at(500_000);
        let members = [gzip(first), gzip(second)].concat();
        let zstd = zstd::stream::encode_all(&*content, 1).unwrap();
        for layer in [&content, &gzip(&content), &members, &zstd] {
            assert!(read(layer).unwrap() == content);
        }
        assert_eq!(read(b"").unwrap(), b"");
    }

    #[test]
    fn a_damaged_layer_is_an_error_also_when_the_builder_saw_none() {
        let mut layer = gzip(&vec![7; 100_000]);
        let middle = layer.len() / 2;
        layer[middle] ^= 0xff;
        assert!(read(&layer).is_err());
    }

    #[test]
    fn a_builder_that_gives_up_ends_the_unpacking() {
        let layer = file(&vec![1; 10 << 20]);
        let error = piped::<(), _>(layer, copy, |_| Err(anyhow::anyhow!("enough")));
        assert_eq!(error.unwrap_err().to_string(), "enough");
    }
}
