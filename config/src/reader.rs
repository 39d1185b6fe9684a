//! Typed access to the tree; every refusal names the key, its line and what was
//! expected.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::error::ConfigError;
use crate::origin::Origins;
use crate::scalar::FormError;
use crate::tree::{Node, below, shorten};

type Result<T> = std::result::Result<T, ConfigError>;

/// A mapping whose keys are all known; one that the file leaves out is empty.
pub(crate) struct Section<'a> {
    origins: &'a Origins,
    path: String,
    entries: &'a [(String, Node)],
}

/// A value together with its path.
pub(crate) struct Field<'a> {
    origins: &'a Origins,
    path: String,
    node: &'a Node,
}

impl<'a> Section<'a> {
    pub(crate) fn root(node: &'a Node, origins: &'a Origins, known: &[&str]) -> Result<Self> {
        let path = String::new();
        Field {
            origins,
            path,
            node,
        }
        .section(known)
    }

    pub(crate) fn path(&self, key: &str) -> String {
        below(&self.path, key)
    }

    pub(crate) fn error(&self, key: &str, reason: &str) -> ConfigError {
        self.origins.error(&self.path(key), reason)
    }

    /// The value of a key, if the file has the key.
    pub(crate) fn optional(&self, key: &str) -> Option<Field<'a>> {
        let (_, node) = self.entries.iter().find(|(name, _)| name == key)?;
        Some(Field {
            origins: self.origins,
            path: self.path(key),
            node,
        })
    }

    /// The value of a key that must be there.
    pub(crate) fn required(&self, key: &str) -> Result<Field<'a>> {
        self.optional(key).ok_or_else(|| self.error(key, "missing"))
    }

    /// A mapping all of whose keys may be left out, and so may itself.
    pub(crate) fn section(&self, key: &str, known: &[&str]) -> Result<Self> {
        match self.optional(key) {
            Some(field) => field.section(known),
            None => Ok(Self {
                origins: self.origins,
                path: self.path(key),
                entries: &[],
            }),
        }
    }

    pub(crate) fn number<T>(&self, key: &str, range: RangeInclusive<T>, default: T) -> Result<T>
    where
        T: Copy + Into<u64> + TryFrom<u64>,
    {
        self.optional(key)
            .map_or(Ok(default), |field| field.number(range))
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        self.optional(key).map_or(Ok(default), |field| field.flag())
    }

    pub(crate) fn choice<T: FromStr<Err = FormError>>(&self, key: &str, default: T) -> Result<T> {
        self.optional(key)
            .map_or(Ok(default), |field| field.value())
    }

    /// Milliseconds.
    pub(crate) fn millis(
        &self,
        key: &str,
        range: RangeInclusive<u32>,
        default: u32,
    ) -> Result<Duration> {
        let millis = self.number(key, range, default)?;
        Ok(Duration::from_millis(millis.into()))
    }
}

impl<'a> Field<'a> {
    pub(crate) fn error(&self, reason: &str) -> ConfigError {
        self.origins.error(&self.path, reason)
    }

    fn expected(&self, what: &str) -> ConfigError {
        self.error(&format!("expected {what}, found {}", self.node))
    }

    pub(crate) fn section(&self, known: &[&str]) -> Result<Section<'a>> {
        let Node::Map(entries) = self.node else {
            // The root has no name of its own.
            return Err(if self.path.is_empty() {
                let reason = format!("expected a mapping, found {}", self.node);
                self.origins.error_at_root(&reason)
            } else {
                self.expected("a mapping")
            });
        };
        let section = Section {
            origins: self.origins,
            path: self.path.clone(),
            entries,
        };
        for (key, _) in entries {
            if !known.contains(&key.as_str()) {
                let hint = nearest(key, known)
                    .map(|known| format!(", did you mean {known}?"))
                    .unwrap_or_default();
                let line = self.origins.line(&section.path(key));
                let path = shorten(&section.path(key));
                return Err(self
                    .origins
                    .error_on(line, format!("{path}: unknown key{hint}")));
            }
        }
        Ok(section)
    }

    pub(crate) fn list(&self) -> Result<Vec<Field<'a>>> {
        let Node::List(items) = self.node else {
            return Err(self.expected("a list"));
        };
        let item = |(index, node)| Field {
            origins: self.origins,
            path: below(&self.path, index),
            node,
        };
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// A scalar's text, whether quoted or not.
    pub(crate) fn text(&self, what: &str) -> Result<&'a str> {
        match self.node {
            Node::Scalar { text, .. } if !text.is_empty() => Ok(text),
            _ => Err(self.expected(what)),
        }
    }

    /// An unquoted scalar's text.
    fn plain(&self) -> Option<&'a str> {
        match self.node {
            Node::Scalar {
                text,
                quoted: false,
            } => Some(text),
            _ => None,
        }
    }

    pub(crate) fn number<T>(&self, range: RangeInclusive<T>) -> Result<T>
    where
        T: Copy + Into<u64> + TryFrom<u64>,
    {
        let (first, last): (u64, u64) = ((*range.start()).into(), (*range.end()).into());
        self.plain()
            // A leading zero is octal to some readers of YAML and not to others.
            .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
            .filter(|text| *text == "0" || !text.starts_with('0'))
            .and_then(|text| text.parse().ok())
            .filter(|number| (first..=last).contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| self.expected(&format!("a whole number from {first} to {last}")))
    }

    pub(crate) fn flag(&self) -> Result<bool> {
        match self.plain() {
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            _ => Err(self.expected("true or false")),
        }
    }

    /// A value of our own form.
    pub(crate) fn value<T: FromStr<Err = FormError>>(&self) -> Result<T> {
        match self.node {
            Node::Scalar { text, .. } => text.parse().ok(),
            _ => None,
        }
        .ok_or_else(|| match T::from_str("") {
            Err(FormError(form)) => self.expected(form),
            Ok(_) => self.expected("a value"),
        })
    }

    /// A unicast IP address.
    pub(crate) fn address(&self) -> Result<IpAddr> {
        let what = "an IP address";
        let address: IpAddr = self.text(what)?.parse().map_err(|_| self.expected(what))?;
        let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
        if address.is_unspecified() || address.is_multicast() || broadcast {
            return Err(self.expected("a unicast address"));
        }
        Ok(address)
    }

    /// A name that is fit for metric labels and log lines.
    pub(crate) fn name(&self) -> Result<String> {
        let what = "1 to 64 letters, digits, dots, dashes or underscores";
        let text = self.text(what)?;
        let fit = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if text.len() > 64 || !text.bytes().all(fit) {
            return Err(self.expected(what));
        }
        Ok(text.to_owned())
    }
}

/// The known key that was probably meant.
fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    // The distance is quadratic, and no key of ours is that long.
    if key.len() > 64 {
        return None;
    }
    known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(key, known), *known))
        .filter(|(distance, known)| *distance <= known.len().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}
