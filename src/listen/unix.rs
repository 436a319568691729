//! Unix sockets that are listened on: a file while we listen, and none afterwards.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use crate::socket::BACKLOG;

/// Of listeners for clients: owner and group may connect. A proxy that runs as another user joins the group.
pub const MODE: u32 = 0o660;

/// A socket with its file, which goes with it.
#[derive(Debug)]
pub struct UnixSocket {
    pub listener: UnixListener,
    /// `None`: whoever handed it over keeps its file.
    _file: Option<SocketFile>,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode: another process may have put its own file there since.
    id: (u64, u64),
}

impl UnixSocket {
    /// Listens at `path`, a file of that mode. A socket that nobody listens on any more, left by a crash, is removed first.
    ///
    /// # Errors
    /// Those of the system; [`io::ErrorKind::AddrInUse`] when somebody listens there or the file is no socket.
    pub fn listen(path: &Path, mode: u32) -> io::Result<UnixSocket> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        let address = SockAddr::unix(path)?;
        match socket.bind(&address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
                fs::remove_file(path)?;
                socket.bind(&address)?;
            }
            bound => bound?,
        }
        // From here on the file goes, whatever fails.
        let metadata = fs::symlink_metadata(path)?;
        let file = SocketFile { path: path.to_owned(), id: (metadata.dev(), metadata.ino()) };
        // Nobody can connect before it listens.
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        socket.listen(BACKLOG.cast_signed())?;
        socket.set_nonblocking(true)?;
        Ok(UnixSocket { listener: UnixListener::from_std(socket.into())?, _file: Some(file) })
    }

    /// Accepts on the runtime of the caller from now on.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn here(self) -> io::Result<UnixSocket> {
        Ok(UnixSocket { listener: UnixListener::from_std(self.listener.into_std()?)?, ..self })
    }

    /// A socket that somebody else opened, and removes.
    pub fn handed(listener: UnixListener) -> UnixSocket {
        UnixSocket { listener, _file: None }
    }
}

/// A socket to which nobody can connect.
fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).err().is_some_and(refused)
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == self.id;
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
