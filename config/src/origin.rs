//! Where in its file each key stands.

use std::collections::HashMap;

use crate::error::ConfigError;
use crate::types::Config;

/// Lines of all keys and list items of a file, by dotted path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins {
    file: String,
    lines: HashMap<String, u32>,
}

/// Where something was written is not part of what it says.
impl PartialEq for Origins {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Origins {
    pub(crate) fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            lines: HashMap::new(),
        }
    }

    /// The line of the key itself, or `None` if the file does not have it.
    pub(crate) fn line(&self, path: &str) -> Option<u32> {
        self.lines.get(path).copied()
    }

    pub(crate) fn insert(&mut self, path: String, line: u32) {
        self.lines.insert(path, line);
    }

    /// An error at a key; a key that the file leaves out is blamed on the
    /// nearest mapping around it.
    pub(crate) fn error(&self, path: &str, reason: &str) -> ConfigError {
        let mut at = path;
        let line = loop {
            if let Some(line) = self.line(at) {
                break Some(line);
            }
            // The file itself is kept under the empty path.
            match at.rfind('.') {
                Some(dot) => at = &at[..dot],
                None if at.is_empty() => break None,
                None => at = "",
            }
        };
        self.error_on(line, format!("{path}: {reason}"))
    }

    /// An error of the file as a whole, at its first key.
    pub(crate) fn error_at_root(&self, reason: &str) -> ConfigError {
        self.error_on(self.line(""), reason.to_owned())
    }

    /// An error on a line that is known already.
    pub(crate) fn error_on(&self, line: Option<u32>, reason: String) -> ConfigError {
        ConfigError::new(&self.file, line, reason)
    }
}

impl Config {
    /// Line of the key with this dotted path, such as `ports.wire.device` or
    /// `services.0.vip`; `None` where the file leaves it out.
    #[must_use]
    pub fn origin(&self, path: &str) -> Option<u32> {
        self.origins.line(path)
    }

    /// The message for something that only starting up can find out, such as a
    /// missing device: `FILE:LINE: ports.wire.device: reason`. A key that the
    /// file leaves out is blamed on the nearest mapping around it.
    #[must_use]
    pub fn error_at(&self, path: &str, reason: impl std::fmt::Display) -> ConfigError {
        self.origins.error(path, &reason.to_string())
    }
}
