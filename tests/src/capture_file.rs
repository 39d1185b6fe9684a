//! Capture files, and frames as text that a person can review.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Writes a capture file of Ethernet frames, little-endian, without times.
///
/// # Panics
/// The file cannot be written.
pub fn write_pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, 1] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        let len = frame.len() as u32;
        for word in [0, 0, len, len] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    fs::write(path, file).unwrap();
}

/// The frames of a capture file that a process of this machine wrote.
///
/// # Panics
/// It is no capture of whole Ethernet frames.
#[must_use]
pub fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(path).unwrap();
    let word = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().unwrap());
    let magic = word(0);
    assert!(
        [0xa1b2_c3d4, 0xa1b2_3c4d].contains(&magic),
        "no capture: {magic:08x}"
    );
    assert_eq!(word(20), 1, "Ethernet");
    let mut frames = Vec::new();
    let mut at = 24;
    while at < file.len() {
        let (captured, len) = (word(at + 8) as usize, word(at + 12) as usize);
        assert_eq!(captured, len, "a frame was cut");
        at += 16;
        frames.push(file[at..at + len].to_vec());
        at += len;
    }
    frames
}

/// Frames as text2pcap reads them: a comment, then 16 bytes to a line behind their
/// offset.
#[must_use]
pub fn to_hex(frames: &[(&str, Vec<u8>)]) -> String {
    let mut text = String::new();
    for (number, (what, frame)) in frames.iter().enumerate() {
        let _ = writeln!(text, "# {}: {what}", number + 1);
        for (line, bytes) in frame.chunks(16).enumerate() {
            let _ = write!(text, "{:04x}", line * 16);
            for byte in bytes {
                let _ = write!(text, " {byte:02x}");
            }
            text.push('\n');
        }
        text.push('\n');
    }
    text
}

/// The frames of such a text.
///
/// # Panics
/// It is something else.
#[must_use]
pub fn from_hex(text: &str) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let lines = text
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty());
    for line in lines {
        let mut words = line.split_ascii_whitespace();
        let offset = usize::from_str_radix(words.next().unwrap(), 16).unwrap();
        if offset == 0 {
            frames.push(Vec::new());
        }
        let frame: &mut Vec<u8> = frames.last_mut().expect("a frame starts at offset 0");
        assert_eq!(offset, frame.len(), "{line}");
        frame.extend(words.map(|w| u8::from_str_radix(w, 16).unwrap()));
    }
    frames
}
