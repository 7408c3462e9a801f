//! A thousand packets a second each way between two namespaces, each one counted.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use crate::{netns::Netns, wait};

/// Time between two packets.
const PACE: Duration = Duration::from_millis(1);

/// How often a thread without packets looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// Longest time the last packets may be on their way.
const LAST: Duration = Duration::from_secs(3);

/// Room for packets that wait for a busy machine: only the network is to lose any.
const BUFFER: usize = 16 << 20;

/// What became of the packets, there and back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Packets sent.
    pub sent: u64,
    /// Packets that did not come back.
    pub lost: u64,
    /// Packets that came after a later one.
    pub reordered: u64,
    /// Packets that came more than once.
    pub duplicated: u64,
    /// Longest time between one packet and the next.
    pub longest_gap: Duration,
}

/// A stream that runs until it is asked for its report.
#[derive(Debug)]
pub struct Stream {
    counts: Arc<Counts>,
    sender: Option<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
    receiver: Option<JoinHandle<Report>>,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
    stop_sending: AtomicBool,
    stop: AtomicBool,
}

fn socket(netns: &Netns, address: Ipv4Addr) -> Result<UdpSocket> {
    let socket = netns.inside(move || UdpSocket::bind((address, 0)))??;
    setsockopt(&socket, RcvBufForce, &BUFFER)?;
    socket.set_read_timeout(Some(LOOK))?;
    Ok(socket)
}

/// Sends back what comes.
fn echo(socket: &UdpSocket, counts: &Counts) {
    let mut packet = [0; 64];
    while !counts.stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut packet) {
            let _ = socket.send_to(&packet[..length], from);
        }
    }
}

/// Sends by the clock: what a busy machine held up is sent at once afterwards.
fn send(socket: &UdpSocket, to: SocketAddr, counts: &Counts) {
    let start = Instant::now();
    let mut number: u64 = 0;
    while !counts.stop_sending.load(Ordering::Relaxed) {
        let due = start + PACE * u32::try_from(number).unwrap_or(u32::MAX);
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            sleep(early);
        }
        // What the kernel refuses to send is lost like any other.
        let _ = socket.send_to(&number.to_be_bytes(), to);
        number += 1;
        counts.sent.store(number, Ordering::Relaxed);
    }
}

fn receive(socket: &UdpSocket, counts: &Counts) -> Report {
    let (mut report, mut seen) = (Report::default(), HashSet::new());
    let (mut highest, mut last): (Option<u64>, Option<Instant>) = (None, None);
    let mut packet = [0; 8];
    while !counts.stop.load(Ordering::Relaxed) {
        if !matches!(socket.recv(&mut packet), Ok(8)) {
            continue;
        }
        let (number, now) = (u64::from_be_bytes(packet), Instant::now());
        if let Some(last) = last.replace(now) {
            report.longest_gap = report.longest_gap.max(now - last);
        }
        if !seen.insert(number) {
            report.duplicated += 1;
            continue;
        }
        if highest.is_some_and(|highest| number < highest) {
            report.reordered += 1;
        }
        highest = highest.max(Some(number));
        counts.received.fetch_add(1, Ordering::Relaxed);
    }
    report.sent = counts.sent.load(Ordering::Relaxed);
    report.lost = report.sent.saturating_sub(counts.received.load(Ordering::Relaxed));
    report
}

// === impl Stream ===

impl Stream {
    /// Starts one between two addresses; returns when the first packet is back.
    pub fn start(client: (&Netns, Ipv4Addr), server: (&Netns, Ipv4Addr)) -> Result<Self> {
        let (ours, theirs) = (socket(client.0, client.1)?, socket(server.0, server.1)?);
        let (to, back) = (theirs.local_addr()?, ours.try_clone()?);
        let counts = Arc::new(Counts::default());
        let [for_echo, for_receiver, for_sender] = [(); 3].map(|()| counts.clone());
        let stream = Self {
            others: vec![std::thread::spawn(move || echo(&theirs, &for_echo))],
            receiver: Some(std::thread::spawn(move || receive(&back, &for_receiver))),
            sender: Some(std::thread::spawn(move || send(&ours, to, &for_sender))),
            counts,
        };
        wait::until_true(&format!("an answer from {}", server.1), Duration::from_secs(10), || {
            stream.received() > 0
        })?;
        Ok(stream)
    }

    /// Packets that are back so far.
    pub fn received(&self) -> u64 {
        self.counts.received.load(Ordering::Relaxed)
    }

    /// Waits until the packets of this time were sent: time as the stream measures it.
    pub fn run_for(&self, time: Duration) -> Result<()> {
        let packets = u64::try_from(time.as_millis())?;
        let end = self.counts.sent.load(Ordering::Relaxed) + packets;
        let limit = time * 2 + Duration::from_secs(10);
        wait::until_true("packets are sent", limit, || self.counts.sent.load(Ordering::Relaxed) >= end)
    }

    /// Ends it, once the last packets had time to come back.
    pub fn report(mut self) -> Result<Report> {
        self.counts.stop_sending.store(true, Ordering::Relaxed);
        let died = |_| anyhow!("a thread of a stream panicked");
        self.sender.take().map(JoinHandle::join).transpose().map_err(died)?;
        let all = || self.received() >= self.counts.sent.load(Ordering::Relaxed);
        // If not, the report says so.
        let _ = wait::until_true("all packets are back", LAST, all);
        self.counts.stop.store(true, Ordering::Relaxed);
        let report = self.receiver.take().map(JoinHandle::join).transpose();
        report.map_err(|_| anyhow!("a thread of a stream panicked"))?.ok_or_else(|| anyhow!("no report"))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.counts.stop_sending.store(true, Ordering::Relaxed);
        self.counts.stop.store(true, Ordering::Relaxed);
        // Their sockets hold the namespaces.
        let threads = self.others.drain(..).chain(self.sender.take());
        threads.for_each(|thread| drop(thread.join()));
        self.receiver.take().map(JoinHandle::join);
    }
}
