//! The bytes beneath TLS: TCP as it is, unix sockets with files beside the bytes.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg, sockopt,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
    time::Sleep,
};

use super::FdTable;

/// Most files one read takes; the most upstream sends before a write.
pub(super) const MAX_FILES: usize = 64;

/// A silent TCP peer is probed after this time, this often, this many times.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);

/// Longest time sent bytes may stay without an answer, in milliseconds.
const USER_TIMEOUT: u32 = 20_000;

/// Longest time a peer may take nothing of what waits for it. On a unix socket nobody else would
/// notice one that stopped reading.
const STALL: Duration = Duration::from_secs(20);

/// A connected stream.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Socket,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream, FdTable),
}

impl Wire {
    /// A unix socket with the files that pass it.
    pub(super) fn unix(stream: UnixStream, table: FdTable) -> Self {
        Self { socket: Socket::Unix(stream, table), stalled: None }
    }

    /// Whether files can pass.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.socket, Socket::Unix(..))
    }

    /// Until there is something to read, which stays there, or nothing will be any more.
    pub(super) async fn heard(&self) -> io::Result<()> {
        // That tokio holds a new socket for readable says nothing.
        let look = |socket: BorrowedFd<'_>| Ok(recv(socket, &mut [0; 1], RecvFlags::PEEK).map(drop)?);
        match &self.socket {
            Socket::Tcp(stream) => stream.async_io(Interest::READABLE, || look(stream.as_fd())).await,
            Socket::Unix(stream, _) => stream.async_io(Interest::READABLE, || look(stream.as_fd())).await,
        }
    }

    /// A TCP stream that ends when its peer falls silent: a node that lost its power or its network
    /// closes nothing.
    pub(super) fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (idle, interval, probes) = KEEPALIVE;
        sockopt::set_tcp_keepidle(&stream, idle)?;
        sockopt::set_tcp_keepintvl(&stream, interval)?;
        sockopt::set_tcp_keepcnt(&stream, probes)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_user_timeout(&stream, USER_TIMEOUT)?;
        Ok(Self { socket: Socket::Tcp(stream), stalled: None })
    }

    /// Ends a write that has waited too long, and with it the connection.
    fn in_time<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer has stopped reading")))
    }
}

/// Bytes, and whether files beside them were dropped by the kernel (`MSG_CTRUNC`).
fn receive(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
    files: &mut Vec<std::os::fd::OwnedFd>,
) -> io::Result<(usize, bool)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(socket, &mut [IoSliceMut::new(into)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            files.extend(received);
        }
    }
    Ok((message.bytes, message.flags.contains(ReturnFlags::CTRUNC)))
}

/// Sends one byte with one file on it.
fn send_with(socket: BorrowedFd<'_>, byte: &[u8], file: BorrowedFd<'_>) -> io::Result<usize> {
    let files = [file];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    Ok(sendmsg(socket, &[IoSlice::new(byte)], &mut control, SendFlags::NOSIGNAL)?)
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (stream, table) = match &mut self.get_mut().socket {
            Socket::Tcp(stream) => return Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream, table) => (stream, table),
        };
        if buf.remaining() == 0 {
            // A read of nothing would look like the end of the stream.
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(stream.poll_read_ready(cx))?;
            let mut files = Vec::new();
            let into = buf.initialize_unfilled();
            let read = stream.try_io(Interest::READABLE, || receive(stream.as_fd(), into, &mut files));
            if !files.is_empty() {
                table.store(files);
            }
            match read {
                Ok((bytes, cut)) => {
                    if cut {
                        table.cut();
                    }
                    buf.advance(bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Socket {
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let (stream, table) = match self {
            Self::Tcp(stream) => return Pin::new(stream).poll_write(cx, data),
            Self::Unix(stream, table) => (stream, table),
        };
        let Some(first) = data.get(..1) else { return Poll::Ready(Ok(0)) };
        loop {
            ready!(stream.poll_write_ready(cx))?;
            let written = match table.pop() {
                None => stream.try_write(data),
                Some(file) => {
                    let sent =
                        stream.try_io(Interest::WRITABLE, || send_with(stream.as_fd(), first, file.as_fd()));
                    if sent.is_err() {
                        table.unpop(file);
                    }
                    sent
                }
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl AsyncWrite for Wire {
    // Vectored writes stay off: files ride on single bytes.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        let written = wire.socket.poll_write(cx, data);
        wire.in_time(cx, written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Unix(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{api::peer::Files, transport::file_key};

    #[tokio::test]
    async fn a_tcp_peer_that_falls_silent_is_noticed_within_half_a_minute() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let Socket::Tcp(stream) = Wire::tcp(stream).unwrap().socket else { unreachable!() };
        assert!(stream.nodelay().unwrap() && sockopt::socket_keepalive(&stream).unwrap());
        let probes = sockopt::tcp_keepcnt(&stream).unwrap();
        let silence =
            sockopt::tcp_keepidle(&stream).unwrap() + sockopt::tcp_keepintvl(&stream).unwrap() * probes;
        assert!(silence <= Duration::from_secs(30), "{silence:?}");
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), USER_TIMEOUT);
    }

    #[tokio::test]
    async fn files_arrive_beside_the_bytes_and_the_bytes_stay_whole() {
        let (a, b) = UnixStream::pair().unwrap();
        let (out, arrived) = (FdTable::default(), FdTable::default());
        let (mut sender, mut receiver) = (Wire::unix(a, out.clone()), Wire::unix(b, arrived.clone()));
        let mut files = Files::default();
        let mut keys = Vec::new();
        for _ in 0..5 {
            let file = std::os::unix::net::UnixDatagram::unbound().unwrap();
            let file = std::os::fd::OwnedFd::from(file);
            let key = file_key(&file).unwrap();
            keys.push(key);
            files.insert(key, Arc::new(file));
        }
        assert!(out.send(&files));
        sender.write_all(b"a longer message than there are files").await.unwrap();
        sender.shutdown().await.unwrap();
        let mut text = String::new();
        receiver.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "a longer message than there are files");
        let deadline = Instant::now() + Duration::from_secs(5);
        for key in keys {
            assert_eq!(file_key(arrived.take(key, deadline.into()).await.unwrap()).unwrap(), key);
        }
    }

    #[tokio::test]
    async fn a_call_whose_file_the_kernel_dropped_is_refused_at_once_and_the_others_go_on() {
        let (a, b) = UnixStream::pair().unwrap();
        let arrived = FdTable::default();
        let mut receiver = Wire::unix(b, arrived.clone());
        let file = || std::os::fd::OwnedFd::from(std::os::unix::net::UnixDatagram::unbound().unwrap());
        let files: Vec<_> = (0..2 * MAX_FILES).map(|_| file()).collect();
        let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2 * MAX_FILES))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
        let waits = arrived.clone();
        let [kept, last] = [MAX_FILES / 2, 2 * MAX_FILES - 1].map(|number| file_key(&files[number]).unwrap());
        let limit = Duration::from_mins(1);
        let waiting = tokio::spawn(async move { waits.take(last, (Instant::now() + limit).into()).await });
        tokio::task::yield_now().await;
        sendmsg(&a, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
        assert_eq!(receiver.read_u8().await.unwrap(), b'x');
        let refused = tokio::time::timeout(limit / 2, waiting).await.unwrap().unwrap().unwrap_err();
        assert!(refused.to_string().contains(&format!("{last} was dropped")), "{refused}");
        arrived.take(kept, (Instant::now() + limit).into()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stops_reading_is_cut_and_a_slow_one_is_not() {
        let (a, mut b) = UnixStream::pair().unwrap();
        let mut wire = Wire::unix(a, FdTable::default());
        // What does not fit waits, and goes on when a little is taken just in time.
        let much = vec![0; 16 << 20];
        let slow = async {
            tokio::time::sleep(STALL * 9 / 10).await;
            let mut little = vec![0; 256 << 10];
            assert!(b.read(&mut little).await.unwrap() > 0);
            // The rest is never taken, and the other end stays open.
            std::future::pending::<()>().await;
        };
        let began = tokio::time::Instant::now();
        let ended = tokio::select! {
            ended = wire.write_all(&much) => ended.unwrap_err(),
            () = slow => unreachable!(),
        };
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        assert!((STALL * 18 / 10..=STALL * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
    }
}
