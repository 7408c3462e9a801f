//! The server: passes every question on to all servers at once, and the best answer back. Messages
//! pass as they are (RFC 1035 §4.1); only their header and their question are looked at.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tracing::debug;

/// Questions that may be open at a time; more are not answered, and asked again by who asked.
const QUESTIONS: usize = 256;

/// TCP connections at a time.
const CONNECTIONS: usize = 64;

/// Longest wait for servers.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long others are waited for after one has said that it knows nothing.
const AFTER_NO: Duration = Duration::from_millis(500);

/// How long a TCP connection may be silent (RFC 7766 §6.1 leaves it open).
const SILENCE: Duration = Duration::from_secs(10);

/// Pause after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(50);

/// A header, and the largest message over UDP that is read.
const SIZES: (usize, usize) = (12, 4096);

/// See the module.
#[derive(Debug)]
pub(super) struct Proxy {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
    asking: Asking,
}

/// What every question needs.
#[derive(Clone, Debug)]
struct Asking {
    servers: watch::Receiver<Vec<SocketAddr>>,
    questions: Arc<Semaphore>,
}

/// How good an answer is, best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    /// The server cannot, or will not.
    Failure,
    /// There is no such name.
    NoName,
    /// The name has nothing of the kind that was asked for.
    NoData,
    /// What was asked for, or more than fits.
    Data,
}

fn worth(answer: &[u8]) -> Worth {
    let truncated = answer[2] & 2 != 0;
    let answers = u16::from_be_bytes([answer[6], answer[7]]);
    match answer[3] & 15 {
        0 if answers > 0 || truncated => Worth::Data,
        0 => Worth::NoData,
        3 => Worth::NoName,
        _ => Worth::Failure,
    }
}

/// The question sent back as an answer that says SERVFAIL.
fn failure(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer[3] = (answer[3] & 0xf0) | 2;
    answer
}

/// What a message asks for: its one question, with the name in full, for nothing stands before it that could be
/// pointed to (RFC 1035 §4.1.2).
fn asked(message: &[u8]) -> Option<&[u8]> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = SIZES.0;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1 + length;
        match length {
            // Behind the name stand type and class.
            0 => return message.get(SIZES.0..at + 4),
            1..=63 => {}
            _ => return None,
        }
    }
}

/// Whether this is a question: a whole one, and no answer.
fn is_question(message: &[u8]) -> bool {
    message.len() >= SIZES.0 && message[2] & 0x80 == 0 && asked(message).is_some()
}

/// Whether this answers the question: it repeats its id and all that it asks (RFC 5452 §9.1), the name in
/// whatever case. A server that could not read the question repeats nothing, and says so.
fn is_answer(question: &[u8], message: &[u8]) -> bool {
    if message.len() < SIZES.0 || message[..2] != question[..2] || message[2] & 0x80 == 0 {
        return false;
    }
    match (asked(question), asked(message)) {
        (Some(one), Some(other)) if one.len() == other.len() => {
            let name = one.len() - 4;
            one[..name].eq_ignore_ascii_case(&other[..name]) && one[name..] == other[name..]
        }
        (_, None) => message[4..6] == [0, 0] && worth(message) == Worth::Failure,
        _ => false,
    }
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

/// Asks one server, under an id of this process's own: who guesses answers has to guess that too.
async fn ask(server: SocketAddr, mut question: Vec<u8>, over_tcp: bool) -> io::Result<Vec<u8>> {
    let [first, second, ..] = *uuid::Uuid::new_v4().as_bytes();
    let id = [question[0], question[1]];
    question[..2].copy_from_slice(&[first, second]);
    let mut answer = if over_tcp {
        let mut stream = TcpStream::connect(server).await?;
        write_message(&mut stream, &question).await?;
        let answer = read_message(&mut stream).await?;
        if !is_answer(&question, &answer) {
            return Err(io::Error::other("that is no answer to the question"));
        }
        answer
    } else {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(server).await?;
        socket.send(&question).await?;
        let mut buffer = vec![0; SIZES.1];
        loop {
            let length = socket.recv(&mut buffer).await?;
            if is_answer(&question, &buffer[..length]) {
                buffer.truncate(length);
                break buffer;
            }
        }
    };
    answer[..2].copy_from_slice(&id);
    Ok(answer)
}

impl Asking {
    /// The best answer of all servers: the first with data, or what is best when the time is over.
    async fn answer(&self, question: &[u8], over_tcp: bool) -> Vec<u8> {
        let servers = self.servers.borrow().clone();
        let asked = servers.into_iter().map(|server| {
            let question = question.to_vec();
            async move { (server, timeout(PATIENCE, ask(server, question, over_tcp)).await) }
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut best: Option<(Worth, Vec<u8>)> = None;
        let mut patience = PATIENCE;
        while let Ok(Some((server, answered))) = timeout(patience, asked.next()).await {
            match answered {
                Ok(Ok(answer)) => {
                    let worth = worth(&answer);
                    if worth == Worth::Data {
                        return answer;
                    }
                    if worth != Worth::Failure {
                        patience = AFTER_NO;
                    }
                    if best.as_ref().is_none_or(|(known, _)| *known < worth) {
                        best = Some((worth, answer));
                    }
                }
                Ok(Err(error)) => debug!(%server, %error, "a DNS server cannot be asked"),
                Err(_) => debug!(%server, "a DNS server does not answer"),
            }
        }
        best.map_or_else(|| failure(question), |(_, answer)| answer)
    }

    fn permit(&self) -> Option<OwnedSemaphorePermit> {
        self.questions.clone().try_acquire_owned().ok()
    }

    /// All questions of one TCP connection, one after the other.
    async fn serve(self, mut stream: TcpStream) -> io::Result<()> {
        while let Ok(Ok(question)) = timeout(SILENCE, read_message(&mut stream)).await {
            let Some(_permit) = self.permit().filter(|_| is_question(&question)) else { break };
            let answer = self.answer(&question, true).await;
            timeout(SILENCE, write_message(&mut stream, &answer)).await??;
        }
        Ok(())
    }
}

impl Proxy {
    /// Listens here over UDP and TCP.
    pub(super) async fn bind(
        address: SocketAddr,
        servers: watch::Receiver<Vec<SocketAddr>>,
    ) -> io::Result<Self> {
        let asking = Asking { servers, questions: Arc::new(Semaphore::new(QUESTIONS)) };
        let udp = Arc::new(UdpSocket::bind(address).await?);
        Ok(Self { tcp: TcpListener::bind(udp.local_addr()?).await?, udp, asking })
    }

    /// Serves until dropped, with everything it has begun.
    pub(super) async fn run(self) {
        let mut work = tokio::task::JoinSet::new();
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        let mut buffer = vec![0; SIZES.1];
        loop {
            tokio::select! {
                received = self.udp.recv_from(&mut buffer) => {
                    // An error here is of an earlier answer that did not arrive.
                    let Ok((length, from)) = received else { continue };
                    let (question, asking) = (buffer[..length].to_vec(), self.asking.clone());
                    let Some(permit) = asking.permit().filter(|_| is_question(&question)) else { continue };
                    let udp = self.udp.clone();
                    work.spawn(async move {
                        let answer = asking.answer(&question, false).await;
                        let _ = udp.send_to(&answer, from).await;
                        drop(permit);
                    });
                }
                accepted = self.tcp.accept() => {
                    let Ok((stream, _)) = accepted else {
                        // Out of files, and so it will be for a moment.
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    };
                    let Ok(permit) = connections.clone().try_acquire_owned() else { continue };
                    let asking = self.asking.clone();
                    work.spawn(async move {
                        if let Err(error) = asking.serve(stream).await {
                            debug!(%error, "a DNS connection ended");
                        }
                        drop(permit);
                    });
                }
                Some(_) = work.join_next() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
