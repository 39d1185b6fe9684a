//! The control thread's sockets, bound before anything else is started: whoever
//! has them is the one daemon of this node.

use dts_config::{Config, ConfigError};
use dts_proto::rpc;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Owner and group may read the node's state and, later, change it.
const ADMIN_MODE: u32 = 0o660;

/// All of them.
pub struct Sockets {
    /// Handover RPC.
    pub rpc: rpc::Server,
    /// Admin API.
    pub admin: AdminSocket,
    /// Prometheus.
    pub metrics: TcpListener,
}

impl Sockets {
    /// Binds what the configuration names.
    ///
    /// # Errors
    /// Another daemon is there, or the kernel refuses; at the key to blame.
    pub fn bind(config: &Config) -> Result<Self, ConfigError> {
        let control = &config.control;
        let at = |key: &str, what: String, e: &io::Error| {
            let reason = match e.kind() {
                io::ErrorKind::AddrInUse => format!("{what}: in use, a daemon is running there"),
                _ => format!("{what}: {e}"),
            };
            config.error_at(&format!("control.{key}"), reason)
        };
        let rpc = folder(&control.rpc_socket)
            .and_then(|()| crate::rpc_server::RpcServer::bind(&control.rpc_socket))
            .map_err(|e| at("rpc_socket", control.rpc_socket.display().to_string(), &e))?;
        let admin = folder(&control.admin_socket)
            .and_then(|()| AdminSocket::bind(&control.admin_socket))
            .map_err(|e| {
                at(
                    "admin_socket",
                    control.admin_socket.display().to_string(),
                    &e,
                )
            })?;
        let metrics = TcpListener::bind(control.metrics)
            .map_err(|e| at("metrics", control.metrics.to_string(), &e))?;
        Ok(Self {
            rpc,
            admin,
            metrics,
        })
    }
}

/// Makes the folder of a socket, if only that is missing.
fn folder(path: &Path) -> io::Result<()> {
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(parent) if !parent.exists() => fs::create_dir(parent),
        _ => Ok(()),
    }
}

/// The listening admin socket; dropping it removes its file.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Listens at `path`; the file of a dead daemon is replaced.
    ///
    /// # Errors
    /// `AddrInUse` when somebody listens there or `path` is no socket; else what
    /// the kernel says.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused && is_socket(path) => {
                fs::remove_file(path)?;
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Err(e),
            Ok(_) | Err(_) => return Err(io::ErrorKind::AddrInUse.into()),
        }
        let listener = UnixListener::bind(path)?;
        let socket = Self {
            listener,
            path: path.to_owned(),
        };
        fs::set_permissions(path, fs::Permissions::from_mode(ADMIN_MODE))?;
        Ok(socket)
    }

    /// A second descriptor of the listener, which does not block.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.set_nonblocking(true)?;
        self.listener.try_clone()
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // A destructor has nobody to tell.
        let _ = fs::remove_file(&self.path);
    }
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_daemons_socket_is_replaced_and_a_live_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let live = AdminSocket::bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, ADMIN_MODE);
        let error = AdminSocket::bind(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(live);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_is_not_mistaken_for_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "kept").unwrap();
        assert!(AdminSocket::bind(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"kept");
    }
}
