//! One HTTP request over the daemon's Unix socket.

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;

/// How long a daemon may think.
const PATIENCE: Duration = Duration::from_secs(10);

/// No daemon can be asked. Its `Display` is the message for the operator.
#[derive(Debug, thiserror::Error)]
#[error("no daemon answers at {path}: {reason}")]
pub struct NoDaemon {
    path: String,
    reason: String,
}

/// Gets `target` (path and query) from the daemon at `socket`.
///
/// # Errors
/// [`NoDaemon`] when nobody answers there; else what the daemon says is wrong.
pub fn get(socket: &Path, target: &str) -> anyhow::Result<serde_json::Value> {
    ask(socket, Method::GET, target)
}

/// Asks the daemon at `socket` to do what `target` says.
///
/// # Errors
/// As [`get`].
pub fn post(socket: &Path, target: &str) -> anyhow::Result<serde_json::Value> {
    ask(socket, Method::POST, target)
}

fn ask(socket: &Path, method: Method, target: &str) -> anyhow::Result<serde_json::Value> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let no_daemon = |reason: String| NoDaemon {
        path: socket.display().to_string(),
        reason,
    };
    let (status, body) = runtime
        .block_on(async { tokio::time::timeout(PATIENCE, exchange(socket, method, target)).await })
        .map_err(|_| no_daemon(format!("no answer in {} s", PATIENCE.as_secs())))?
        .map_err(|e| no_daemon(e.to_string()))?;
    if !status.is_success() {
        bail!(
            "the daemon says {status}: {}",
            String::from_utf8_lossy(&body)
        );
    }
    serde_json::from_slice(&body).context("the daemon's answer is not JSON")
}

type Answer = (hyper::StatusCode, Bytes);
type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(socket: &Path, method: Method, target: &str) -> Result<Answer, Failure> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, "dtsd")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}
