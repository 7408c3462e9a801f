//! Packets to an address that is not there yet, one each millisecond: when does the first one pass?

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, sleep},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow};

use crate::netns::Netns;

/// Where whoever is knocked at listens.
const PORT: u16 = 7070;

/// Time between two packets.
const PACE: Duration = Duration::from_millis(1);

/// Sends back what comes to any address of a namespace, until dropped.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts it.
    pub fn start(netns: &Netns) -> Result<Self> {
        let socket = netns.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
        socket.set_read_timeout(Some(PACE * 50))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut packet = [0; 16];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut packet) {
                    let _ = socket.send_to(&packet[..length], from);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Its socket holds the namespace.
        self.thread.take().map(JoinHandle::join);
    }
}

/// Knocks until somebody answers.
#[derive(Debug)]
pub struct Knock(JoinHandle<io::Result<SystemTime>>);

impl Knock {
    /// Starts to send from a namespace to an address where an [`Echo`] is or will be, for `limit` at most.
    pub fn start(from: &Netns, to: Ipv4Addr, limit: Duration) -> Result<Self> {
        let socket = from.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        socket.set_nonblocking(true)?;
        Ok(Self(std::thread::spawn(move || {
            let end = SystemTime::now() + limit;
            let mut packet = [0; 16];
            while SystemTime::now() < end {
                // There may be no way yet.
                let _ = socket.send_to(b"knock", (to, PORT));
                sleep(PACE);
                if matches!(socket.recv_from(&mut packet), Ok((_, by)) if by.ip() == to) {
                    return Ok(SystemTime::now());
                }
            }
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("nobody at {to} has answered for {limit:?}")))
        })))
    }

    /// When the first answer came.
    pub fn answered(self) -> Result<SystemTime> {
        self.0.join().map_err(|_| anyhow!("a thread that knocks panicked"))?.context("knocking")
    }
}
