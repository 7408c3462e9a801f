//! A connection's interface in a pod, as `ip` shows it.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use crate::netns::Netns;

/// The mark of all links of the mesh: "nsm" as a number.
pub const GROUP: &str = "7238509";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number; another one means another interface.
    pub index: u64,
    /// `veth` or `vxlan`.
    pub kind: String,
    /// What is written on it.
    pub alias: String,
    /// Other names by which it is found.
    pub other_names: Vec<String>,
    /// Its group.
    pub group: String,
    /// Largest packet, in bytes.
    pub mtu: u64,
    /// Its IPv4 address and the length of its prefix.
    pub address: Option<(Ipv4Addr, u64)>,
    /// The host beyond it, by its route.
    pub peer: Option<Ipv4Addr>,
    /// Whether packets may pass.
    pub up: bool,
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Whether a link, as `ip -json -details link` shows it, is one of the mesh.
fn is_ours(link: &Value) -> bool {
    text(link, "group") == GROUP || text(link, "ifalias").starts_with("nsm:")
}

fn interface(netns: &Netns, link: &Value) -> Result<Interface> {
    let name = text(link, "ifname");
    let inet = netns.list(&format!("-4 address show dev {name}"))?;
    let address = inet
        .iter()
        .flat_map(|link| link["addr_info"].as_array().into_iter().flatten())
        .find_map(|address| Some((text(address, "local").parse().ok()?, address["prefixlen"].as_u64()?)));
    let routes = netns.list(&format!("-4 route show dev {name}"))?;
    let peer = routes.iter().find_map(|route| text(route, "dst").parse().ok());
    let flag =
        |wanted: &str| link["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == wanted));
    let other_names = link["altnames"].as_array().into_iter().flatten();
    Ok(Interface {
        name: name.to_owned(),
        index: link["ifindex"].as_u64().ok_or_else(|| anyhow!("a link without a number"))?,
        kind: text(&link["linkinfo"], "info_kind").to_owned(),
        alias: text(link, "ifalias").to_owned(),
        other_names: other_names.filter_map(Value::as_str).map(str::to_owned).collect(),
        group: text(link, "group").to_owned(),
        mtu: link["mtu"].as_u64().unwrap_or(0),
        address,
        peer,
        up: flag("UP") && flag("LOWER_UP"),
    })
}

impl Interface {
    /// The connection it says it serves: the alias is `nsm:<connection> of <forwarder>`.
    pub fn connection(&self) -> Option<&str> {
        self.alias.strip_prefix("nsm:")?.split(" of ").next()
    }
}

/// All of the mesh in a namespace, by name.
pub fn interfaces(netns: &Netns) -> Result<Vec<Interface>> {
    let mut tries = 0;
    loop {
        let links = netns.list("-details link show").context("links cannot be listed")?;
        let ours = links.iter().filter(|link| is_ours(link));
        match ours.map(|link| interface(netns, link)).collect::<Result<Vec<_>>>() {
            Ok(mut found) => {
                found.sort_by(|a, b| a.name.cmp(&b.name));
                return Ok(found);
            }
            // One went away between two looks.
            Err(_) if tries < 3 => tries += 1,
            Err(error) => return Err(error),
        }
    }
}
