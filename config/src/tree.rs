//! A YAML document as a tree that knows its lines.
//!
//! Scalars stay text: what a value means is decided by the key that asks for
//! it, so a key of all digits is not a number and `no` is not false.

use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use crate::error::ConfigError;
use crate::origin::Origins;

/// Deepest nesting; the schema needs 5 levels.
const MAX_DEPTH: usize = 16;

/// A value.
#[derive(Debug)]
pub(crate) enum Node {
    Null,
    Scalar { text: String, quoted: bool },
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// What was found where something else was expected.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("nothing"),
            Self::Scalar { text, quoted } => {
                let kind = if *quoted { "the string " } else { "" };
                write!(f, "{kind}\"{}\"", shorten(text))
            }
            Self::List(_) => f.write_str("a list"),
            Self::Map(_) => f.write_str("a mapping"),
        }
    }
}

/// Enough of a text to recognise it in a message.
pub(crate) fn shorten(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Reads the one document of a file and where its keys stand.
pub(crate) fn read(text: &str, file: &str) -> Result<(Node, Origins), ConfigError> {
    let mut builder = Builder {
        parser: Parser::new_from_str(text),
        origins: Origins::new(file),
        file,
    };
    let root = builder.document()?;
    Ok((root, builder.origins))
}

/// Path of a key or item below `path`.
pub(crate) fn below(path: &str, key: impl fmt::Display) -> String {
    if path.is_empty() {
        key.to_string()
    } else {
        format!("{path}.{key}")
    }
}

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    origins: Origins,
    file: &'a str,
}

fn line_of(span: Span) -> u32 {
    u32::try_from(span.start.line()).unwrap_or(u32::MAX)
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, u32), ConfigError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, line_of(span))),
            Some(Err(error)) => Err(self.syntax(&error)),
            None => Ok((Event::StreamEnd, 1)),
        }
    }

    fn syntax(&self, error: &ScanError) -> ConfigError {
        let line = u32::try_from(error.marker().line()).unwrap_or(u32::MAX);
        self.error(line, format!("not YAML: {}", error.info()))
    }

    fn error(&self, line: u32, reason: impl Into<String>) -> ConfigError {
        ConfigError::new(self.file, Some(line), reason)
    }

    fn empty(&self) -> ConfigError {
        ConfigError::new(self.file, None, "the file is empty")
    }

    fn document(&mut self) -> Result<Node, ConfigError> {
        let (event, line) = loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(_), _) => {}
                (Event::StreamEnd, _) => return Err(self.empty()),
                other => break other,
            }
        };
        self.origins.insert(String::new(), line);
        let root = self.node(event, line, "", 0)?;
        if matches!(root, Node::Null) {
            return Err(self.empty());
        }
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(root),
                (Event::DocumentStart(_), line) => {
                    return Err(self.error(line, "a second document; only one is allowed"));
                }
                _ => {}
            }
        }
    }

    fn node(
        &mut self,
        event: Event<'a>,
        line: u32,
        path: &str,
        depth: usize,
    ) -> Result<Node, ConfigError> {
        if depth > MAX_DEPTH {
            return Err(self.error(line, "nested too deeply"));
        }
        match event {
            Event::Alias(_)
            | Event::Scalar(_, _, 1.., _)
            | Event::SequenceStart(1.., _)
            | Event::MappingStart(1.., _) => {
                Err(self.error(line, "anchors and aliases are not supported"))
            }
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => Err(self.error(line, "tags are not supported")),
            Event::Scalar(text, style, ..) => {
                let quoted = style != ScalarStyle::Plain;
                Ok(match text.as_ref() {
                    "" | "~" | "null" if !quoted => Node::Null,
                    _ => Node::Scalar {
                        text: text.into_owned(),
                        quoted,
                    },
                })
            }
            Event::SequenceStart(..) => self.list(path, depth),
            Event::MappingStart(..) => self.map(path, depth),
            _ => Err(self.error(line, "not YAML: a value is missing")),
        }
    }

    fn list(&mut self, path: &str, depth: usize) -> Result<Node, ConfigError> {
        let mut items = Vec::new();
        loop {
            let (event, line) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Node::List(items));
            }
            let path = below(path, items.len());
            self.origins.insert(path.clone(), line);
            items.push(self.node(event, line, &path, depth + 1)?);
        }
    }

    fn map(&mut self, path: &str, depth: usize) -> Result<Node, ConfigError> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        loop {
            let (event, line) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(Node::Map(entries)),
                Event::Scalar(key, _, 0, None) => key.into_owned(),
                _ => return Err(self.error(line, "a key must be a plain word")),
            };
            let path = below(path, &key);
            if entries.iter().any(|(known, _)| *known == key) {
                let first = self.origins.line(&path).unwrap_or(line);
                let reason = format!("{}: duplicate key (first on line {first})", shorten(&path));
                return Err(self.error(line, reason));
            }
            self.origins.insert(path.clone(), line);
            let (event, line) = self.next()?;
            let value = self.node(event, line, &path, depth + 1)?;
            entries.push((key, value));
        }
    }
}
