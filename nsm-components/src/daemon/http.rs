//! `/metrics`, `/livez` and `/readyz` for those on the same host: a unix socket that only its owner may
//! use, or a loopback address. Nothing can be changed by it.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::{
    fs::Mode,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::{Metrics, Readiness, metrics};
use crate::settings::Target;

/// Connections that are served at once; more wait.
const CONNECTIONS: usize = 16;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// How long one connection may last, and how long its request may take to come.
const LIMIT: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(5));

/// What is shown of a process while this is held.
#[derive(Debug)]
pub struct Shown {
    socket: Option<(PathBuf, FileId)>,
    _task: AbortOnDropHandle<()>,
}

/// Device and inode.
type FileId = (u64, u64);

fn file_id(path: &Path) -> io::Result<FileId> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Shown {
    /// Starts to listen, and answers from now on.
    pub fn start(target: &Target, metrics: Metrics, readiness: Readiness) -> io::Result<Self> {
        let (listener, socket) = match target {
            Target::Unix(path) => {
                let listener = bind(path)?;
                (Listener::Unix(listener), Some((path.clone(), file_id(path)?)))
            }
            Target::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                (Listener::Tcp(TcpListener::from_std(listener)?), None)
            }
        };
        let task = AbortOnDropHandle::new(tokio::spawn(serve(listener, metrics, readiness)));
        Ok(Self { socket, _task: task })
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        // Another process may have taken the place.
        if let Some((path, own)) = &self.socket
            && file_id(path).is_ok_and(|there| there == *own)
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// A socket that its owner alone may use. One that stands there belonged to a former process.
fn bind(path: &PathBuf) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file begins with the mode that the socket has: there is no moment when others may use it.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    UnixListener::from_std(socket.into())
}

async fn serve(listener: Listener, metrics: Metrics, readiness: Readiness) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream: io::Result<Box<dyn Stream>> = match &listener {
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| Box::new(stream) as _),
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| Box::new(stream) as _),
        };
        let Ok(stream) = stream else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (metrics, readiness) = (metrics.clone(), readiness.clone());
        tokio::spawn(async move {
            let respond = service_fn(|request| {
                std::future::ready(Ok::<_, Infallible>(answer(&request, &metrics, &readiness)))
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(LIMIT.1)
                .serve_connection(TokioIo::new(stream), respond);
            if let Ok(Err(error)) = tokio::time::timeout(LIMIT.0, connection).await {
                debug!(%error, "a reader of metrics went away");
            }
            drop(place);
        });
    }
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

fn answer(request: &Request<Incoming>, metrics: &Metrics, readiness: &Readiness) -> Response<String> {
    let (status, body) = if request.method() == Method::GET {
        page(request.uri().path(), metrics, readiness)
    } else {
        (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned())
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(metrics::CONTENT_TYPE));
    response
}

fn page(path: &str, metrics: &Metrics, readiness: &Readiness) -> (StatusCode, String) {
    match path {
        "/metrics" => (StatusCode::OK, metrics.text()),
        // Whoever can answer lives.
        "/livez" => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => {
            let missing = readiness.missing();
            if missing.is_empty() {
                return (StatusCode::OK, "ok\n".to_owned());
            }
            let lines: Vec<_> = missing.iter().map(|(what, why)| format!("{what}: {why}")).collect();
            (StatusCode::SERVICE_UNAVAILABLE, lines.join("\n") + "\n")
        }
        _ => (StatusCode::NOT_FOUND, "there are /metrics, /livez and /readyz\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::PermissionsExt,
        sync::atomic::{AtomicBool, Ordering},
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
    };

    use super::*;

    async fn get(path: &std::path::Path, page: &str) -> String {
        let mut stream = UnixStream::connect(path).await.unwrap();
        let request = format!("GET {page} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_pages_are_there_and_readiness_says_what_is_missing_until_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/metrics.sock");
        let (metrics, readiness) = (Metrics::default(), Readiness::default());
        metrics.gauge("nsm_answer", "It.", || 42);
        let there = Arc::new(AtomicBool::new(false));
        let look = there.clone();
        let check = move || (!look.load(Ordering::Relaxed)).then(|| "no SVID".to_owned());
        readiness.require("identity", check);
        let shown = Shown::start(&Target::Unix(path.clone()), metrics, readiness).unwrap();
        assert!(get(&path, "/livez").await.starts_with("HTTP/1.1 200"));
        assert!(get(&path, "/metrics").await.ends_with("\nnsm_answer 42\n"));
        let missing = get(&path, "/readyz").await;
        assert!(missing.starts_with("HTTP/1.1 503") && missing.ends_with("identity: no SVID\n"), "{missing}");
        there.store(true, Ordering::Relaxed);
        assert!(get(&path, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(&path, "/x").await.starts_with("HTTP/1.1 404"));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(shown);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_process_that_ends_leaves_the_socket_of_the_one_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.sock");
        let target = Target::Unix(path.clone());
        let start = || Shown::start(&target, Metrics::default(), Readiness::default()).unwrap();
        let before = start();
        let _after = start();
        drop(before);
        assert!(get(&path, "/livez").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn rubbish_and_silence_end_no_more_than_their_connection() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.sock");
        let shown = Shown::start(&Target::Unix(path.clone()), Metrics::default(), Readiness::default());
        let _shown = shown.unwrap();
        let _silent = UnixStream::connect(&path).await.unwrap();
        let mut rubbish = UnixStream::connect(&path).await.unwrap();
        rubbish.write_all(&[0x16; 4096]).await.unwrap();
        assert!(get(&path, "/readyz").await.starts_with("HTTP/1.1 200"));
    }
}
