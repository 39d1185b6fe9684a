//! A process of this program, which does something else at the word of its parent and
//! answers each line by one of JSON.

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The process as its parent sees it. The end of its input ends it.
#[derive(Debug)]
pub struct Talker {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    what: &'static str,
}

impl Talker {
    /// Starts the subcommand `what` with `spec`.
    ///
    /// # Errors
    /// There is no such process to be had.
    pub fn start(what: &'static str, spec: &impl Serialize) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(what)
            .arg(serde_json::to_string(spec)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("a pipe was asked for")?;
        Ok(Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
            what,
        })
    }

    /// The next line that it says.
    ///
    /// # Errors
    /// It says nothing or something else; its reason is on standard error.
    pub fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the {} is gone", self.what))
    }

    /// Says `word` and hears the answer.
    ///
    /// # Errors
    /// Those of [`Talker::hear`].
    pub fn ask<T: DeserializeOwned>(&mut self, word: &str) -> Result<T> {
        let stdin = self.stdin.as_mut().context("it was ended")?;
        stdin.write_all(format!("{word}\n").as_bytes())?;
        self.hear()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().try_into()?);
        Ok(kill(pid, signal)?)
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.signal(Signal::SIGCONT);
        self.stdin = None;
        // Whatever it says at its end is on standard error.
        let _ = self.child.wait();
    }
}

/// Says a line to the parent.
///
/// # Errors
/// The parent is gone.
pub fn say(line: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{}", serde_json::to_string(line)?)?;
    Ok(out.flush()?)
}
