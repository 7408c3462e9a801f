//! Links of chains, one a file, under upstream's names. None knows its neighbours.

mod access;
mod admit;
mod authorize;
mod authorizeclient;
mod clientinfo;
mod connect;
mod discover;
mod discoverforwarder;
mod dnscontext;
mod dnscontextclient;
mod drain;
mod excludedprefixes;
mod excludedprefixesclient;
mod grpc;
mod heal;
mod index;
mod kernel;
mod linkevents;
mod liveness;
mod localforwarders;
mod mechanisms;
mod mechanismtranslation;
mod monitor;
mod mtu;
mod netsvcmonitor;
mod nodestatus;
mod onidle;
mod opa;
mod passthrough;
mod point2pointipam;
mod policyroute;
mod processes;
mod processstatus;
mod recovery;
pub mod registry;
mod serve;
#[cfg(test)]
mod testing;
mod trimpath;
mod tunnels;
mod updatepath;
mod updatetoken;
mod vxlan;
mod watch;
mod wireguard;
mod xconnect;

pub use self::{
    access::Access,
    admit::{Admit, Outcomes},
    authorize::Authorize,
    authorizeclient::AuthorizeClient,
    clientinfo::ClientInfo,
    connect::Connect,
    discover::Discover,
    discoverforwarder::DiscoverForwarder,
    dnscontext::DnsContextServer,
    dnscontextclient::{DnsConfigs, DnsContextClient},
    drain::{Drain, Draining, Level as DrainLevel},
    excludedprefixes::ExcludedPrefixes,
    excludedprefixesclient::{ExcludedPrefixesClient, UsedPrefixes},
    heal::Heal,
    index::{Found, Index, Usable, Watched},
    kernel::{KernelClient, KernelServer},
    linkevents::BrokenLinks,
    liveness::{Data, Liveness, LivenessClient, Pace},
    localforwarders::LocalEntries,
    mechanisms::Mechanisms,
    mechanismtranslation::MechanismTranslation,
    monitor::{Healed, Monitor, MonitorEvent, Past, PeerEvents, Peers, PeersByGrpc, Seen},
    mtu::Mtu,
    netsvcmonitor::NetSvcMonitor,
    nodestatus::NodeStatusService,
    onidle::OnIdle,
    opa::{Policies, PolicyError},
    passthrough::PassThrough,
    point2pointipam::{Keep, Point2PointIpam},
    policyroute::{PolicyRoute, PolicyRouteError},
    processes::Processes,
    processstatus::ProcessStatusService,
    recovery::Recovery,
    serve::{ConnectionService, health_service},
    trimpath::TrimPath,
    tunnels::Tunnels,
    updatepath::UpdatePath,
    updatetoken::UpdateToken,
    vxlan::{Vnis, Vxlan},
    wireguard::{Wireguard, Wireguards},
    xconnect::{Adoption, AdoptionReport, AuditRules, Findings, Xconnect},
};
