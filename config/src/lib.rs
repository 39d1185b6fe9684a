//! The YAML schema of dtsd's configuration: defaults, checks, and one clear
//! message, `FILE:LINE: reason`, for every mistake.
//!
//! `examples/dtsd.yaml` explains every key.

mod check;
mod error;
mod health;
mod origin;
mod reader;
mod scalar;
mod schema;
mod tree;
mod types;

pub use error::ConfigError;
pub use scalar::{
    ClusterKey, FormError, HostOffloads, Idle, IpPrefix, Layer2, LogFormat, LogLevel, MacAddr,
    NodeId, Offloads, Policy, PortRange, Replay, Unavailable,
};
pub use types::{
    Check, Cluster, Config, Control, Handover, Health, HostPort, Log, Member, Memory, Orphans,
    Peers, PortConfig, Ports, Reports, RpcAllow, Service, Timeouts, Workers,
};

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Largest file that is read, bytes; far above any configuration.
const FILE_MAX: usize = 1 << 20;

/// Reads and checks a configuration file.
///
/// # Errors
///
/// The first mistake found, at its line; or why the file cannot be read.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let file = path.display().to_string();
    let error = |reason: String| ConfigError::new(&file, None, reason);
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|cause| error(format!("cannot read: {cause}")))?;
    if bytes.len() > FILE_MAX {
        return Err(error(format!("more than {FILE_MAX} bytes")));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => build(text, &file, path),
        Err(cause) => {
            let good = &bytes[..cause.valid_up_to()];
            let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
            let line = u32::try_from(line).ok();
            Err(ConfigError::new(&file, line, "not UTF-8"))
        }
    }
}

/// Checks the text of a configuration; `file_name` is what errors call it, and
/// a relative `key_file` is looked for beside it.
///
/// # Errors
///
/// The first mistake found, at its line.
pub fn parse(text: &str, file_name: &str) -> Result<Config, ConfigError> {
    build(text, file_name, Path::new(file_name))
}

fn build(text: &str, file: &str, path: &Path) -> Result<Config, ConfigError> {
    let (root, origins) = tree::read(text, file)?;
    let config = schema::config(&root, &origins, path)?;
    check::config(&config)?;
    Ok(config)
}
