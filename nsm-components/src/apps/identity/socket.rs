//! The Workload API's unix socket: made, and its callers admitted.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
};
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use super::{
    Error, attest,
    issuer::{Caller, Issuer},
};
use crate::api::with_causes;

/// Connections of one caller: a pod of many processes needs one each, and no pod may use up all.
const CONNECTIONS_PER_CALLER: usize = 64;

/// Connections of all callers: far above the pods of a node, far below what descriptors allow.
const CONNECTIONS: usize = 4096;

/// Pause after a failed accept, which is a lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a connection's calls know of the caller.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    /// Who it is, or why it is nobody.
    pub(super) caller: Result<Caller, Arc<str>>,
    /// The user it connected as.
    pub(super) uid: u32,
}

/// A connection whose caller was looked at when it came.
#[derive(Debug)]
pub(super) struct Admitted {
    io: UnixStream,
    admission: Admission,
    /// Counts the connection for as long as it lives.
    _ticket: Ticket,
}

/// How many connections each caller has; those that are nobody share one count.
#[derive(Clone, Debug, Default)]
struct Quota(Arc<Mutex<HashMap<Option<Caller>, usize>>>);

/// One connection within a [`Quota`].
#[derive(Debug)]
struct Ticket {
    quota: Quota,
    caller: Option<Caller>,
}

/// Listens at `path`, mode 0777: whoever can reach the path may ask, and is judged by what it is.
///
/// The socket takes the place of an older one in one step, so that nobody finds the path empty.
pub(super) fn bind(path: &Path) -> Result<UnixListener, Error> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(Error::NotASocket(path.into())),
        _ => {}
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(Error::file("make the folder", folder))?;
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    remove(&temporary)?;
    let listener = UnixListener::bind(&temporary).map_err(Error::file("listen on", path))?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o777))
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(Error::file("put the socket at", path))?;
    Ok(listener)
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { what: "remove", path: path.into(), source: error })
        }
        _ => Ok(()),
    }
}

/// Connections as they come, each with its caller attested. Never ends and never fails.
pub(super) fn incoming<I: Issuer>(
    listener: UnixListener,
    issuer: Arc<I>,
) -> impl Stream<Item = io::Result<Admitted>> {
    futures::stream::unfold((listener, issuer, Quota::default()), |(listener, issuer, quota)| async {
        loop {
            let io = match listener.accept().await {
                Ok((io, _)) => io,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if let Some(admitted) = admit(io, issuer.as_ref(), &quota) {
                return Some((Ok(admitted), (listener, issuer, quota)));
            }
        }
    })
}

fn admit<I: Issuer>(io: UnixStream, issuer: &I, quota: &Quota) -> Option<Admitted> {
    let uid = io.peer_cred().ok()?.uid();
    let caller = attest::inspect(&io, |process| issuer.attest(process));
    let caller = caller.map_err(|error| {
        let why = with_causes(&error);
        debug!(%why, "refused a caller");
        Arc::from(why)
    });
    let Some(ticket) = quota.take(caller.as_ref().ok()) else {
        debug!(?caller, "dropped a connection: the caller has too many");
        return None;
    };
    Some(Admitted { io, admission: Admission { caller, uid }, _ticket: ticket })
}

// === impl Quota ===

impl Quota {
    fn take(&self, caller: Option<&Caller>) -> Option<Ticket> {
        let mut counts = self.0.lock();
        if counts.values().sum::<usize>() >= CONNECTIONS {
            return None;
        }
        let count = counts.entry(caller.cloned()).or_default();
        if *count >= CONNECTIONS_PER_CALLER {
            return None;
        }
        *count += 1;
        Some(Ticket { quota: self.clone(), caller: caller.cloned() })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut counts = self.quota.0.lock();
        if let Some(count) = counts.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.caller);
            }
        }
    }
}

// === impl Admitted ===

impl Connected for Admitted {
    type ConnectInfo = Admission;

    fn connect_info(&self) -> Admission {
        self.admission.clone()
    }
}

impl AsyncRead for Admitted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Admitted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_that_has_too_many_connections_gets_one_again_when_one_ends() {
        let (quota, pod, other) = (Quota::default(), Caller::new("a"), Caller::new("b"));
        let mut tickets: Vec<_> =
            (0..CONNECTIONS_PER_CALLER).map(|_| quota.take(Some(&pod)).unwrap()).collect();
        assert!(quota.take(Some(&pod)).is_none());
        assert!(quota.take(Some(&other)).is_some());
        assert!(quota.take(None).is_some());
        tickets.pop();
        assert!(quota.take(Some(&pod)).is_some());
        tickets.clear();
        assert!(quota.0.lock().is_empty());
    }

    #[tokio::test]
    async fn an_old_socket_is_replaced_and_another_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/agent.sock");
        drop(bind(&path).unwrap());
        let _listener = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
        UnixStream::connect(&path).await.unwrap();
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);

        let file = folder.path().join("file");
        fs::write(&file, "kept").unwrap();
        assert!(matches!(bind(&file), Err(Error::NotASocket(_))));
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    }
}
