//! The keys of a service's health check.

use crate::error::ConfigError;
use crate::reader::{Field, Section};
use crate::scalar::CheckKind;
use crate::types::{Check, Health};

type Result<T> = std::result::Result<T, ConfigError>;

/// Most arguments of a command, its path counted.
const WORDS_MAX: usize = 64;

pub(crate) fn health(field: &Field<'_>) -> Result<Health> {
    let s = field.section(&[
        "check",
        "path",
        "host",
        "status",
        "command",
        "interval_ms",
        "timeout_ms",
        "rise",
        "fall",
    ])?;
    let kind = s.choice("check", CheckKind::Tcp)?;
    for (key, of) in [
        ("path", CheckKind::Http),
        ("host", CheckKind::Http),
        ("status", CheckKind::Http),
        ("command", CheckKind::Command),
    ] {
        if let Some(stray) = s.optional(key).filter(|_| kind != of) {
            return Err(stray.error(&format!("the check is {kind}")));
        }
    }
    let check = match kind {
        CheckKind::Tcp => Check::Tcp,
        CheckKind::Http => http(&s)?,
        CheckKind::Command => Check::Command(command(&s)?),
    };
    Ok(Health {
        check,
        interval: s.millis("interval_ms", 50..=600_000, 1_000)?,
        timeout: s.millis("timeout_ms", 10..=60_000, 500)?,
        rise: s.number("rise", 1..=100, 2)?,
        fall: s.number("fall", 1..=100, 3)?,
    })
}

fn http(s: &Section<'_>) -> Result<Check> {
    let path = match s.optional("path") {
        None => "/".to_owned(),
        Some(field) => {
            let what = "a path that begins with / and has no white space";
            let text = field.text(what)?;
            let fit = |b: u8| b.is_ascii_graphic();
            if !text.starts_with('/') || !text.bytes().all(fit) {
                return Err(field.error(&format!("expected {what}")));
            }
            text.to_owned()
        }
    };
    let host = match s.optional("host") {
        None => None,
        Some(field) => {
            let what = "a host name, or one with a port";
            let text = field.text(what)?;
            let fit = |b: u8| b.is_ascii_alphanumeric() || b"._-:[]".contains(&b);
            if !text.bytes().all(fit) {
                return Err(field.error(&format!("expected {what}")));
            }
            Some(text.to_owned())
        }
    };
    let status = match s.optional("status") {
        None => vec![200],
        Some(field) => {
            let list = field.list()?;
            if list.is_empty() {
                return Err(field.error("expected at least one status"));
            }
            let status = list.iter().map(|status| status.number(100..=599));
            status.collect::<Result<_>>()?
        }
    };
    Ok(Check::Http { path, host, status })
}

fn command(s: &Section<'_>) -> Result<Vec<String>> {
    let field = s
        .optional("command")
        .ok_or_else(|| s.error("check", "command, but health.command is missing"))?;
    let words = field.list()?;
    let what = "a program's path and its arguments";
    if words.is_empty() || words.len() > WORDS_MAX {
        return Err(field.error(&format!("expected {what}, {WORDS_MAX} words at most")));
    }
    let words = words.iter().map(|word| {
        let text = word.text(what)?;
        match text.contains('\0') {
            true => Err(word.error("an argument has no NUL")),
            false => Ok(text.to_owned()),
        }
    });
    let words: Vec<String> = words.collect::<Result<_>>()?;
    // The working directory and the search path of a daemon are nobody's to know.
    if !words[0].starts_with('/') {
        return Err(field.error(&format!("{:?} is no absolute path", words[0])));
    }
    Ok(words)
}
