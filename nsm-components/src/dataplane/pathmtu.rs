//! How large a packet reaches another node: echo requests that nobody may fragment (RFC 1191, RFC 8201). The
//! interface's MTU is only that of the first part of the way.

mod echo;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use self::echo::Echo;

/// What is known of the ways to other nodes. Clones share it.
#[derive(Clone, Debug)]
pub struct PathMtus {
    local: IpAddr,
    interface: u32,
    known: Arc<Mutex<HashMap<IpAddr, Known>>>,
    probes: Arc<Semaphore>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// When it was asked last.
    at: Instant,
    /// Less than the interface's; `None` where that is not known.
    smaller: Option<u32>,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It came back.
    Passed,
    /// Somebody on the way says what is the largest.
    TooBig(u32),
    /// Nothing came.
    Silence,
}

/// What is known of a way stays known for so long.
const LIFE: Duration = Duration::from_mins(10);

/// Ways that are asked at a time.
const AT_ONCE: usize = 4;

/// Most other nodes that are remembered.
const MOST: usize = 8_192;

/// Most sizes that are tried on one way.
const TRIES: usize = 14;

/// A size that every way carries (RFC 8200 §5; below it IPv4 has no use here either).
const FLOOR: u32 = 1280;

// === impl PathMtus ===

impl PathMtus {
    /// Ways from this address, whose interface has this MTU in bytes. Asked from the calling process's network
    /// namespace.
    pub fn new(local: IpAddr, interface: u32) -> Self {
        let (known, probes) = (Arc::default(), Arc::new(Semaphore::new(AT_ONCE)));
        Self { local, interface, known, probes }
    }

    /// MTU of the way to another node in bytes, where it is smaller than the interface's.
    pub fn smaller(&self, peer: IpAddr) -> Option<u32> {
        self.known.lock().get(&peer).and_then(|known| known.smaller)
    }

    /// MTU of this node's interface in bytes.
    pub fn interface(&self) -> u32 {
        self.interface
    }

    /// Looks how large a packet reaches another node, beside whatever the caller does, unless that was asked a
    /// short time ago.
    pub fn look(&self, peer: IpAddr) {
        if peer.is_ipv4() != self.local.is_ipv4() || !self.is_due(peer) {
            return;
        }
        let own = self.clone();
        tokio::spawn(async move {
            let Ok(_place) = own.probes.clone().acquire_owned().await else { return };
            let (local, interface) = (own.local, own.interface);
            let asked = tokio::task::spawn_blocking(move || -> std::io::Result<Option<u32>> {
                let mut echo = Echo::open(local, peer)?;
                Ok(search(interface, |size| echo.ask(size)))
            });
            match asked.await {
                Ok(Ok(found)) => own.learn(peer, found),
                Ok(Err(error)) => {
                    tracing::debug!(%peer, %error, "cannot ask how large a packet reaches the other node");
                }
                Err(error) => tracing::warn!(%peer, %error, "the search for the path's MTU ended badly"),
            }
        });
    }

    fn is_due(&self, peer: IpAddr) -> bool {
        let mut known = self.known.lock();
        let now = Instant::now();
        if known.len() >= MOST {
            known.retain(|_, known| now.duration_since(known.at) < LIFE);
        }
        let is_full = known.len() >= MOST;
        match known.get_mut(&peer) {
            Some(before) if now.duration_since(before.at) < LIFE => false,
            // What was found counts until there is something newer.
            Some(before) => {
                before.at = now;
                true
            }
            None if is_full => false,
            None => {
                known.insert(peer, Known { at: now, smaller: None });
                true
            }
        }
    }

    fn learn(&self, peer: IpAddr, found: Option<u32>) {
        let Some(found) = found else {
            tracing::debug!(%peer, "the other node answers no echo: its path's MTU is not known");
            return;
        };
        let smaller = Some(found).filter(|found| *found < self.interface);
        let before = self.known.lock().get_mut(&peer).and_then(|known| {
            let before = known.smaller;
            known.smaller = smaller;
            before
        });
        if let Some(path) = smaller.filter(|_| before != smaller) {
            let interface = self.interface;
            tracing::warn!(%peer, path, interface, "the path to the other node carries less than the interface");
        }
    }
}

/// The largest size that passes, at most `top`; `None` where not even the smallest comes back.
fn search(top: u32, mut ask: impl FnMut(u32) -> Answer) -> Option<u32> {
    let mut told = match ask(top) {
        Answer::Passed => return Some(top),
        Answer::TooBig(size) => Some(size),
        Answer::Silence => None,
    };
    if top <= FLOOR || ask(FLOOR) != Answer::Passed {
        return None;
    }
    let (mut passes, mut fails) = (FLOOR, top);
    for _ in 0..TRIES {
        if fails - passes <= 1 {
            break;
        }
        // Who says a size is believed once it was tried.
        let is_told = told.take().filter(|size| (passes + 1..fails).contains(size));
        let size = is_told.unwrap_or(passes + (fails - passes) / 2);
        match ask(size) {
            Answer::Passed if is_told.is_some() => return Some(size),
            Answer::Passed => passes = size,
            Answer::TooBig(size_told) => {
                fails = size;
                told = Some(size_told);
            }
            Answer::Silence => fails = size,
        }
    }
    // What was lost by chance must not make connections smaller for as long as they live.
    if ask(top) == Answer::Passed { Some(top) } else { Some(passes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_that_carries_what_the_interface_does_is_asked_once() {
        let mut asked = Vec::new();
        let found = search(1500, |size| {
            asked.push(size);
            Answer::Passed
        });
        assert_eq!((found, asked), (Some(1500), vec![1500]));
    }

    #[test]
    fn a_router_that_says_the_size_is_believed_once_it_was_tried() {
        let mut asked = Vec::new();
        let found = search(1500, |size| {
            asked.push(size);
            if size > 1400 { Answer::TooBig(1400) } else { Answer::Passed }
        });
        assert_eq!((found, asked), (Some(1400), vec![1500, FLOOR, 1400]));
    }

    #[test]
    fn packets_that_were_lost_by_chance_make_no_way_smaller() {
        let mut lost = 3;
        let found = search(1500, |size| {
            if size > 1400 && lost > 0 {
                lost -= 1;
                return Answer::Silence;
            }
            Answer::Passed
        });
        assert_eq!(found, Some(1500));
    }

    #[test]
    fn where_large_packets_vanish_the_size_is_found_in_few_steps() {
        for limit in [1281, 1400, 1472, 1499] {
            let mut asked = 0;
            let found = search(1500, |size| {
                asked += 1;
                if size > limit { Answer::Silence } else { Answer::Passed }
            });
            assert_eq!(found, Some(limit));
            assert!(asked <= TRIES + 3, "{asked}");
        }
        // Jumbo frames: not to the byte, and never too large.
        let found = search(9000, |size| if size > 8941 { Answer::Silence } else { Answer::Passed }).unwrap();
        assert!((8900..=8941).contains(&found), "{found}");
    }

    #[test]
    fn a_lie_about_the_size_is_found_out_and_silence_tells_nothing() {
        let found = search(1500, |size| if size > 1400 { Answer::TooBig(1450) } else { Answer::Passed });
        assert_eq!(found, Some(1400));
        let found = search(1500, |size| if size > 1400 { Answer::TooBig(68) } else { Answer::Passed });
        assert_eq!(found, Some(1400));
        assert_eq!(search(1500, |_| Answer::Silence), None);
        assert_eq!(search(1280, |_| Answer::Silence), None);
    }
}
