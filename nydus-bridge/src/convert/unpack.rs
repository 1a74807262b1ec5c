//! A layer as the builder reads it: an ordinary archive, out of a pipe. Nothing that is unpacked comes to disk.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;

use darter_service::supervise::Tasks;

use super::progress::LayerProgress;

/// Longest layer, unpacked.
const UNPACKED_BYTES_MAX: u64 = 1 << 40;
/// A layer may become so long, however short it is: a file of nothing but zeros is a thousandth of itself.
const UNPACKED_BYTES_FREE: u64 = 16 << 30;
/// How many times itself a longer one may become; programs and data become three to ten times.
const RATIO_MAX: u64 = 100;
/// What is said of a layer that the builder panicked over.
pub(super) const BREAKS: &str = "it breaks the builder";
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
    let length = layer.metadata()?.len();
    let reader = BufReader::with_capacity(
        1 << 16,
        Counted {
            file: layer,
            told: told.clone(),
        },
    );
    let reader: Box<dyn Read + Send> = match packed {
        Packed::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Packed::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(reader)?),
        Packed::Not => Box::new(reader),
    };
    Ok(Box::new(Bounded::new(reader, length)))
}

/// Ends an archive that is more than an honest one would be.
struct Bounded<R> {
    reader: R,
    left: u64,
    packed: u64,
}

/// How long the archive may be in a layer of so many bytes.
fn most(packed: u64) -> u64 {
    let usual = packed.saturating_mul(RATIO_MAX).max(UNPACKED_BYTES_FREE);
    usual.min(UNPACKED_BYTES_MAX)
}

impl<R: Read> Bounded<R> {
    fn new(reader: R, packed: u64) -> Self {
        Self {
            reader,
            left: most(packed),
            packed,
        }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            let (packed, most) = (self.packed, most(self.packed));
            let reason =
                format!("unpacked, its {packed} bytes are more than {most}, as those of no honest layer are");
            io::Error::new(io::ErrorKind::InvalidData, reason)
        })?;
        Ok(count)
    }
}

/// Lets `build` read what `feed` makes of the layer, unpacked, at a path that is good until it is done. Gives what both
/// gave, unless the layer could not be unpacked. Each runs on a thread of its own.
pub(super) async fn piped<T: Send + 'static, F: Send + 'static>(
    tasks: &Tasks,
    mut reader: impl Read + Send + 'static,
    feed: impl FnOnce(&mut dyn Read, File) -> io::Result<F> + Send + 'static,
    build: impl FnOnce(PathBuf) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<(T, F)> {
    let (out, into) = io::pipe()?;
    let (out, into): (OwnedFd, OwnedFd) = (out.into(), into.into());
    let feeding = tasks.blocking("unpacking of a layer", move || feed(&mut reader, into.into()));
    let building = tasks.blocking("conversion of a layer", move || {
        let built = build(PathBuf::from(format!("/proc/self/fd/{}", out.as_raw_fd())));
        // Ends the feeding, if the builder gave up early.
        drop(out);
        built
    });
    let (fed, built) = tokio::join!(feeding, building);
    let fed = fed.unwrap_or_else(|_| Err(io::Error::other("unpacking it failed")));
    let built = built.unwrap_or_else(|_| Err(anyhow::anyhow!(BREAKS)));
    match (built, fed) {
        (Err(built), Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Err(built),
        (_, Err(error)) => Err(error.into()),
        (built, Ok(fed)) => Ok((built?, fed)),
    }
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

    async fn read(layer: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut layer = file(layer);
        let packed = packed(&mut layer)?;
        let reader = unpacked(layer, packed, &LayerProgress::default())?;
        let read = piped(&Tasks::new(), reader, copy, |path| Ok(std::fs::read(path)?)).await?;
        Ok(read.0)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[tokio::test]
    async fn layers_come_unpacked_however_they_are_packed() {
        let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let (first, second) = content.split_at(500_000);
        let members = [gzip(first), gzip(second)].concat();
        let zstd = zstd::stream::encode_all(&*content, 1).unwrap();
        for layer in [&content, &gzip(&content), &members, &zstd] {
            assert!(read(layer).await.unwrap() == content);
        }
        assert_eq!(read(b"").await.unwrap(), b"");
    }

    #[tokio::test]
    async fn a_damaged_layer_is_an_error_also_when_the_builder_saw_none() {
        let mut layer = gzip(&vec![7; 100_000]);
        let middle = layer.len() / 2;
        layer[middle] ^= 0xff;
        assert!(read(&layer).await.is_err());
    }

    #[tokio::test]
    async fn a_builder_that_gives_up_ends_the_unpacking() {
        let layer = file(&vec![1; 10 << 20]);
        let error = piped::<(), _>(&Tasks::new(), layer, copy, |_| Err(anyhow::anyhow!("enough"))).await;
        assert_eq!(error.unwrap_err().to_string(), "enough");
    }

    #[tokio::test]
    async fn a_builder_that_panics_is_an_error() {
        let error = piped::<(), _>(&Tasks::new(), file(b"a"), copy, |_| panic!("broken")).await;
        assert_eq!(error.unwrap_err().to_string(), BREAKS);
    }

    #[test]
    fn a_layer_that_is_much_more_than_itself_ends() {
        let mut reader = Bounded::new(io::repeat(0), 3);
        reader.left = 1 << 20;
        let error = io::copy(&mut reader, &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("17179869184"), "{error}");
        let sizes = [0, 1 << 20, 1 << 30, 1 << 35, u64::MAX].map(most);
        assert_eq!(sizes, [16 << 30, 16 << 30, 100 << 30, 1 << 40, 1 << 40]);
    }
}
