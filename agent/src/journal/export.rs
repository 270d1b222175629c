//! The journal's lines from the disk, with or without a running posternd.
//!
//! Owns the order: first the check of the whole chain, then the lines. It takes no lock and changes no file.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::path::Path;

use jiff::Timestamp;

use super::head::HeadFile;
use super::{JournalError, chain, head, schema, segments};

/// Checks the whole journal in `state`, then writes the lines from `since` on to `out`, the oldest first. Returns how many it checked.
///
/// # Errors
/// [`JournalError`]: a line is damaged or missing, and nothing was written; or the disk or `out` failed.
pub fn export(state: &Path, since: Option<Timestamp>, out: &mut impl Write) -> Result<u64, JournalError> {
    let dir = state.join(segments::DIR);
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| JournalError::Io { path, source }
    };
    // Read the head before the lines: the writer appends a line before it writes the head, so every line up to this head is there.
    let head_path = dir.join(head::FILE);
    let known = match HeadFile::look(&dir).and_then(|file| file.read()) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(JournalError::Damaged { path: head_path, line: 1, reason: error.to_string() });
        }
        other => other.map_err(fail(&head_path))?,
    };
    let firsts = segments::list(&dir).map_err(fail(&dir))?;
    let origin = chain::Origin::oldest(&dir, &firsts).map_err(fail(&dir))?;
    let folded = chain::fold(&dir, &firsts, origin, known.as_ref())?;
    for &first in &firsts {
        let path = segments::path(&dir, first);
        let whole = if first == folded.segment { folded.len } else { u64::MAX };
        let shown = segments::read(&path).and_then(|file| show(file, whole, since, out));
        shown.map_err(fail(&path))?;
    }
    out.flush().map_err(fail(&dir))?;
    Ok(folded.lines)
}

/// Writes the lines within the first `whole` bytes of a segment.
fn show(file: File, whole: u64, since: Option<Timestamp>, out: &mut impl Write) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 16, file.take(whole));
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        if since.is_none_or(|since| is_from(&line, since)) {
            out.write_all(&line)?;
        }
        line.clear();
    }
    Ok(())
}

/// Whether a line of the checked chain is not older than `since`.
fn is_from(line: &[u8], since: Timestamp) -> bool {
    let text = line.trim_ascii_end();
    let record = schema::mark(text).and_then(|mark| schema::record(text, mark.schema));
    record.is_ok_and(|record| record.is_none_or(|record| record.time >= since))
}
