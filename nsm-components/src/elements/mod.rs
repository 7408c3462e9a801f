//! Links of chains, one a file, under upstream's names. None knows its neighbours.

mod admit;
mod authorize;
mod clientinfo;
mod connect;
mod discover;
mod discoverforwarder;
mod grpc;
mod heal;
mod index;
mod kernel;
mod localforwarders;
mod mechanisms;
mod mechanismtranslation;
mod monitor;
mod opa;
mod point2pointipam;
pub mod registry;
mod serve;
mod trimpath;
mod updatepath;
mod updatetoken;
mod vxlan;
mod xconnect;

pub use self::{
    admit::{Admit, Outcomes},
    authorize::Authorize,
    clientinfo::ClientInfo,
    connect::Connect,
    discover::Discover,
    discoverforwarder::DiscoverForwarder,
    heal::Heal,
    index::{Found, Index},
    kernel::{KernelClient, KernelServer},
    localforwarders::LocalEntries,
    mechanisms::Mechanisms,
    mechanismtranslation::MechanismTranslation,
    monitor::{Monitor, MonitorEvent},
    opa::{Policies, PolicyError},
    point2pointipam::{Point2PointIpam, Pool},
    serve::{ConnectionService, health_service},
    trimpath::TrimPath,
    updatepath::UpdatePath,
    updatetoken::UpdateToken,
    vxlan::{Vnis, Vxlan},
    xconnect::Xconnect,
};
