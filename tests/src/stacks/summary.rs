//! Results of several runs in one file, and the table for people beside it.

use super::{matrix, rtt};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::Path;

/// Everything that was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Ping to node 2's own address, median, microseconds: without the relay, with it.
    pub ping_us: [f64; 2],
    /// The matrix.
    pub cells: Vec<matrix::Result>,
    /// The round-trip time table.
    pub lines: Vec<rtt::Line>,
}

impl Summary {
    /// What earlier runs left in a folder.
    ///
    /// # Errors
    /// There is a file that cannot be read.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let path = folder.join("summary.json");
        match std::fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(format!("{}: {e}", path.display())),
        }
    }

    /// Writes `summary.json` and `table.md`.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|e| e.to_string())?;
        for (name, text) in [("summary.json", text), ("table.md", self.table())] {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(())
    }

    fn table(&self) -> String {
        let mut text = String::new();
        if !self.lines.is_empty() {
            let _ = writeln!(text, "{}", rtt::HEAD);
        }
        for line in &self.lines {
            let _ = writeln!(text, "{}", rtt::rows(line));
        }
        if !self.cells.is_empty() {
            let _ = writeln!(text, "\n{}", matrix::HEAD);
        }
        for cell in &self.cells {
            let _ = writeln!(text, "{}", matrix::line(cell));
        }
        text
    }

    /// Adds a cell, in place of its earlier result.
    pub fn put_cell(&mut self, cell: matrix::Result) {
        match self.cells.iter_mut().find(|c| c.key() == cell.key()) {
            Some(old) => *old = cell,
            None => self.cells.push(cell),
        }
    }

    /// Adds a line, in place of its earlier result.
    pub fn put_line(&mut self, line: rtt::Line) {
        let same = |l: &&mut rtt::Line| l.replay == line.replay && l.delay_ms == line.delay_ms;
        match self.lines.iter_mut().find(same) {
            Some(old) => *old = line,
            None => self.lines.push(line),
        }
    }

    /// What is not as it must be. Handshake replay is told as it is.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        let cells = self.cells.iter().filter(|c| c.verdict != "ok");
        let mut wrong: Vec<String> = cells
            .map(|c| format!("{}: {}", c.key().join(", "), c.verdict))
            .collect();
        for line in self.lines.iter().filter(|l| l.replay == "fast-open") {
            let texts = line.wrong().into_iter();
            wrong.extend(texts.map(|t| format!("round trip of {} ms: {t}", line.delay_ms)));
        }
        wrong
    }
}
