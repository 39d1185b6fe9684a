//! Capture files (`pcap-savefile(5)`) for `net_pcap` to replay from memory.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// A capture file that goes with this value.
#[derive(Debug)]
pub struct Capture {
    path: PathBuf,
    frames: u32,
}

impl Capture {
    /// Writes `frames` to `dir/name`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(
        dir: &Path,
        name: &str,
        frames: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<Self> {
        let path = dir.join(name);
        let file = File::create(&path).with_context(|| format!("{}", path.display()))?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let mut this = Self { path, frames: 0 };
        // Magic, version 2.4, zone, precision, longest frame, Ethernet.
        for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
            out.write_all(&word.to_ne_bytes())?;
        }
        for frame in frames {
            let len = u32::try_from(frame.len())?;
            for word in [0, 0, len, len] {
                out.write_all(&word.to_ne_bytes())?;
            }
            out.write_all(&frame)?;
            this.frames += 1;
        }
        out.flush()?;
        Ok(this)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Frames in it.
    #[must_use]
    pub fn frames(&self) -> u32 {
        self.frames
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // The directory is the build's own: a leftover does no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}
