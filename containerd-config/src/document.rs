//! Reading TOML so that an error names file and line.

use std::path::Path;
use toml_edit::DocumentMut;

use crate::Error;

/// The document in `bytes`; `path` is for messages only.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<DocumentMut, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::NotText {
        path: path.to_path_buf(),
    })?;
    text.parse::<DocumentMut>().map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + bytes.iter().take(start).filter(|&&byte| byte == b'\n').count();
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        Error::InvalidToml {
            path: path.to_path_buf(),
            line,
            message,
        }
    })
}
