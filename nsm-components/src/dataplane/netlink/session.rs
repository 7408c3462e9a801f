//! One call's stay on its thread: which namespace it is in and which sockets it has.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read as _},
    sync::{Arc, atomic::Ordering},
};

use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use tracing::warn;

use super::{
    Tally,
    socket::{Request, Rtnl},
    wireguard::{self, Genl},
};
use crate::dataplane::{
    ids::NetnsKey,
    netns::{Namespaces, Netns},
    operation::At,
    port::KernelError,
};

/// Lives on one short-lived thread.
pub(super) struct Session {
    underlay: Netns,
    netns: Namespaces,
    sockets: HashMap<NetnsKey, Rtnl>,
    generic: HashMap<NetnsKey, Genl>,
    wireguard: Option<u16>,
    here: Option<NetnsKey>,
    tally: Arc<Tally>,
}

/// Groups that may open ICMP sockets: all. The kernel's default is none (`1 0`).
const PING_GROUPS: &str = "0 2147483647";
/// Why there are no encrypted tunnels.
pub(super) const NO_WIREGUARD: &str = "this kernel has no WireGuard";

const PING_GROUP_RANGE: &str = "/proc/sys/net/ipv4/ping_group_range";

/// Two numbers with a tabulator between them; read at once, as this is on the path of every new link.
fn ping_groups() -> io::Result<String> {
    let mut text = [0; 32];
    let length = fs::File::open(PING_GROUP_RANGE)?.read(&mut text)?;
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

// === impl Session ===

impl Session {
    pub(super) fn new(underlay: Netns, netns: Namespaces, tally: Arc<Tally>) -> Self {
        let (sockets, generic) = (HashMap::new(), HashMap::new());
        Self { underlay, netns, sockets, generic, wireguard: None, here: None, tally }
    }

    /// The namespace tunnels leave from, to enter it.
    pub(super) fn underlay_netns(&self) -> Netns {
        self.underlay.clone()
    }

    /// The namespace tunnels leave from.
    pub(super) fn underlay(&self) -> NetnsKey {
        self.underlay.key()
    }

    /// A namespace at hand or found; `None` when it is gone.
    pub(super) fn find(&mut self, key: NetnsKey) -> Option<Netns> {
        if key == self.underlay.key() {
            return Some(self.underlay.clone());
        }
        let netns = self.netns.get_or_find(key)?;
        self.netns.insert(netns.clone());
        Some(netns)
    }

    pub(super) fn batch(
        &mut self,
        key: NetnsKey,
        requests: Vec<Request>,
    ) -> Result<Vec<Result<(), KernelError>>, KernelError> {
        Tally::add(&self.tally.writes, requests.len());
        Tally::add(&self.tally.write_sends, 1);
        self.socket(key)?.batch(requests)
    }

    pub(super) fn get(
        &mut self,
        key: NetnsKey,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, KernelError> {
        Tally::add(&self.tally.reads, 1);
        self.socket(key)?.get(message)
    }

    pub(super) fn dump(
        &mut self,
        key: NetnsKey,
        message: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, KernelError> {
        Tally::add(&self.tally.reads, 1);
        self.socket(key)?.dump(message)
    }

    /// Opens ICMP sockets to all groups. A namespace without the setting has nothing to open.
    pub(super) fn allow_ping(&mut self, key: NetnsKey) -> Result<(), KernelError> {
        self.enter(key)?;
        match ping_groups() {
            Ok(range) if !range.split_whitespace().eq(PING_GROUPS.split(' ')) => {
                match self.write(PING_GROUP_RANGE.into(), PING_GROUPS) {
                    // What a connection can do without: pings may need rights in the pod.
                    Err(KernelError::NotAvailable { .. }) => Ok(()),
                    written => written,
                }
            }
            _ => Ok(()),
        }
    }

    /// Of a link's settings for IPv6 the kernel takes none by netlink but how it makes addresses, and its token
    /// (`inet6_validate_link_af` in net/ipv6/addrconf.c): `disable_ipv6` has this form alone. Without it the
    /// link's IPv6 addresses cannot be added.
    pub(super) fn enable_ipv6(&mut self, at: &At) -> Result<(), KernelError> {
        if !self.ipv6_disabled(at)? {
            return Ok(());
        }
        self.enter(at.netns)?;
        self.write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", at.name), "0")
    }

    /// The one place where anything below /proc/sys is written. A container that is not privileged sees these
    /// files read-only: that is counted, and told once.
    fn write(&mut self, path: String, value: &str) -> Result<(), KernelError> {
        Tally::add(&self.tally.sysctls, 1);
        fs::write(&path, value).map_err(|source| {
            if !is_read_only(&source) {
                return KernelError::Sysctl { path, source };
            }
            if self.tally.unavailable.fetch_add(1, Ordering::Relaxed) == 0 {
                warn!(path, "cannot be written here, so pods keep what they have");
            }
            KernelError::NotAvailable { path, value: value.to_owned() }
        })
    }

    fn socket(&mut self, key: NetnsKey) -> Result<&mut Rtnl, KernelError> {
        if !self.sockets.contains_key(&key) {
            self.enter(key)?;
            self.sockets.insert(key, Rtnl::route()?);
        }
        self.sockets.get_mut(&key).ok_or(KernelError::NoNetns(key))
    }

    /// A socket of the WireGuard family in a namespace.
    pub(super) fn generic(&mut self, key: NetnsKey) -> Result<&mut Genl, KernelError> {
        Tally::add(&self.tally.reads, 1);
        if !self.generic.contains_key(&key) {
            self.enter(key)?;
            self.generic.insert(key, Genl::generic()?);
        }
        self.generic.get_mut(&key).ok_or(KernelError::NoNetns(key))
    }

    /// The number of that family.
    pub(super) fn wireguard_family(&mut self) -> Result<u16, KernelError> {
        if let Some(family) = self.wireguard {
            return Ok(family);
        }
        let none = KernelError::Refused { errno: Errno::EOPNOTSUPP, text: Some(NO_WIREGUARD.into()) };
        let family = wireguard::family()?.ok_or(none)?;
        self.wireguard = Some(family);
        Ok(family)
    }

    pub(super) fn enter(&mut self, key: NetnsKey) -> Result<(), KernelError> {
        if self.here == Some(key) {
            return Ok(());
        }
        let netns = self.find(key).ok_or(KernelError::NoNetns(key))?;
        let entered: io::Result<()> = netns.enter();
        entered.map_err(|source| KernelError::Io { doing: "enter a network namespace", source })?;
        self.here = Some(key);
        Ok(())
    }
}
