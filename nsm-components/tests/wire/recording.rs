//! Recorded messages by the name of their type.

use std::fmt::Debug;

use nsm_components::api::{connection, connectioncontext, ipam, networkservice, registry};
use prost::Message;

/// A line of a recording.
pub(crate) struct Recorded<'a> {
    /// Full name of the message.
    pub(crate) name: &'a str,
    /// What is special about it, or who said it.
    pub(crate) case: &'a str,
    /// As it went over the wire, or as text.
    pub(crate) rest: &'a str,
}

/// A message that was taken in.
pub(crate) struct Taken {
    /// As it is given out again.
    pub(crate) bytes: Vec<u8>,
    /// As people read it.
    pub(crate) text: String,
}

pub(crate) fn lines(text: &str) -> impl Iterator<Item = Recorded<'_>> {
    text.lines().map(|line| {
        let mut parts = line.splitn(3, ' ');
        let mut next = || parts.next().unwrap_or_else(|| panic!("three words in {line:?}"));
        Recorded { name: next(), case: next(), rest: next() }
    })
}

fn again<M: Message + Default + PartialEq + Debug>(bytes: &[u8]) -> Taken {
    let message = M::decode(bytes).unwrap();
    let given = message.encode_to_vec();
    assert_eq!(M::decode(&*given).unwrap(), message);
    Taken { bytes: given, text: format!("{message:?}") }
}

// === impl Recorded ===

impl Recorded<'_> {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let digits = self.rest.as_bytes().chunks(2);
        digits.map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    }

    /// Takes it in as the type of its name.
    pub(crate) fn take(&self) -> Taken {
        let take = match self.name {
            "google.protobuf.Empty" => again::<()>,
            "connection.Mechanism" => again::<connection::Mechanism>,
            "connection.PathSegment" => again::<connection::PathSegment>,
            "connection.Path" => again::<connection::Path>,
            "connection.Connection" => again::<connection::Connection>,
            "connection.ConnectionEvent" => again::<connection::ConnectionEvent>,
            "connection.MonitorScopeSelector" => again::<connection::MonitorScopeSelector>,
            "connectioncontext.IpNeighbor" => again::<connectioncontext::IpNeighbor>,
            "connectioncontext.Route" => again::<connectioncontext::Route>,
            "connectioncontext.IpFamily" => again::<connectioncontext::IpFamily>,
            "connectioncontext.ExtraPrefixRequest" => again::<connectioncontext::ExtraPrefixRequest>,
            "connectioncontext.PolicyRoute" => again::<connectioncontext::PolicyRoute>,
            "connectioncontext.IPContext" => again::<connectioncontext::IpContext>,
            "connectioncontext.DNSConfig" => again::<connectioncontext::DnsConfig>,
            "connectioncontext.DNSContext" => again::<connectioncontext::DnsContext>,
            "connectioncontext.EthernetContext" => again::<connectioncontext::EthernetContext>,
            "connectioncontext.ConnectionContext" => again::<connectioncontext::ConnectionContext>,
            "networkservice.NetworkServiceRequest" => again::<networkservice::NetworkServiceRequest>,
            "registry.Metadata" => again::<registry::Metadata>,
            "registry.Destination" => again::<registry::Destination>,
            "registry.Match" => again::<registry::Match>,
            "registry.NetworkService" => again::<registry::NetworkService>,
            "registry.NetworkServiceLabels" => again::<registry::NetworkServiceLabels>,
            "registry.NetworkServiceEndpoint" => again::<registry::NetworkServiceEndpoint>,
            "registry.NetworkServiceQuery" => again::<registry::NetworkServiceQuery>,
            "registry.NetworkServiceEndpointQuery" => again::<registry::NetworkServiceEndpointQuery>,
            "registry.NetworkServiceResponse" => again::<registry::NetworkServiceResponse>,
            "registry.NetworkServiceEndpointResponse" => again::<registry::NetworkServiceEndpointResponse>,
            "ipam.PrefixRequest" => again::<ipam::PrefixRequest>,
            "ipam.PrefixResponse" => again::<ipam::PrefixResponse>,
            name => panic!("{name} is no message of ours"),
        };
        take(&self.bytes())
    }
}
