//! What a Request says of its two sides, as the data plane understands it.

use std::os::fd::AsFd;

use super::super::wireguard::{self, Wireguards};
use crate::{
    api::{
        Mechanism,
        mechanism::{DST_IP, DST_PORT, INODE_URL, MTU, NAME, SRC_IP},
        peer::{FileKey, Files},
    },
    chain::{Error, Kind, Result},
    dataplane::{Namespaces, Netns, NetnsKey, Side, VxlanLink},
};

/// Which half of the forwarder a tunnel belongs to.
#[derive(Clone, Copy)]
pub(super) enum Half {
    /// Towards the client: this is the tunnel's dst.
    Server,
    /// Towards the endpoint: this is its src.
    Client,
}

/// One side, by its mechanism.
pub(super) fn side(
    id: &str,
    mechanism: Option<&Mechanism>,
    half: Half,
    wireguards: &Wireguards,
) -> Result<Side> {
    let invalid = |what: &str| Error::new(Kind::Invalid, what);
    let mechanism = mechanism.ok_or_else(|| invalid("one side has no mechanism"))?;
    if mechanism.is_kernel() {
        let url = mechanism.get(INODE_URL).and_then(|url| url.parse::<FileKey>().ok());
        let key = url.ok_or_else(|| invalid("the kernel mechanism names no network namespace"))?;
        let ifname = mechanism.get(NAME).ok_or_else(|| invalid("the kernel mechanism names no interface"))?;
        return Ok(Side::Kernel {
            netns: NetnsKey { dev: key.dev, ino: key.ino },
            ifname: ifname.to_owned(),
        });
    }
    if mechanism.is_wireguard() {
        let peer = match half {
            Half::Server => wireguard::SRC,
            Half::Client => wireguard::DST,
        };
        let tunnel = wireguards.link(id, mechanism, peer)?;
        return Ok(Side::Wireguard { tunnel, mtu: mechanism.parse(MTU).unwrap_or(0) });
    }
    let (own, peer) = match half {
        Half::Server => (DST_IP, SRC_IP),
        Half::Client => (SRC_IP, DST_IP),
    };
    let missing = |key: &str| invalid(&format!("the VXLAN mechanism has no valid {key}"));
    let tunnel = VxlanLink {
        local: mechanism.parse(own).ok_or_else(|| missing(own))?,
        remote: mechanism.parse(peer).ok_or_else(|| missing(peer))?,
        vni: mechanism.vni().ok_or_else(|| missing("vni"))?,
        port: mechanism.parse(DST_PORT).ok_or_else(|| missing(DST_PORT))?,
    };
    Ok(Side::Vxlan { tunnel, mtu: mechanism.parse(MTU).unwrap_or(0) })
}

/// The namespaces whose descriptors came along.
pub(super) fn namespaces(files: &Files) -> Namespaces {
    files.iter().filter_map(|(_, file)| Netns::from_fd(file.as_fd()).ok()).collect()
}
