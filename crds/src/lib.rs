//! The Kubernetes resources of Network Service Mesh: Rust types first, YAML generated from them.
//!
//! | kind | written by | says |
//! |---|---|---|
//! | [`NSMConfig`] | platform engineer | what the operator installs; status: is all well, and if not, why |
//! | [`NSMNodeState`] | nsmgr of the node | how the connections of the node's clients are |
//! | [`NetworkService`] | application team, upstream's tools | a service of the mesh |
//! | [`NetworkServiceEndpoint`] | registry; application team (`spec.workload`) | who offers a service |
//!
//! `generated/` holds one file a kind, written by `cargo run -p nsm-crds --example generate_crds`; a
//! test fails when the two differ.

#![allow(
    unreachable_pub,
    reason = "KubeSchema makes a private twin of each struct, at the same place of the source"
)]
#![allow(clippy::duplicated_attributes, reason = "columns of one kind share types and priorities")]

mod conditions;
mod limits;
mod manifests;
mod networkservice;
mod networkserviceendpoint;
mod nsmconfig;
mod nsmnodestate;

pub use self::{
    conditions::{
        CONDITION_ACCEPTED, CONDITION_DRAINED, CONDITION_PROTECTED, CONDITION_READY, CONDITION_RECONCILING,
        CONDITION_STALLED, ConfigReason, EndpointReason, NodeReason, Reason, ServiceReason,
    },
    limits::{MAX_ENDPOINTS, MAX_ERROR_CHARS, MAX_FORWARDERS, MAX_SERVICES, MAX_UNHEALTHY},
    manifests::{Manifest, SerializeError, all, manifests},
    networkservice::{
        Destination, LabelSelector, Match, NetworkService, NetworkServiceSpec, NetworkServiceStatus,
    },
    networkserviceendpoint::{
        Amounts, EnvVar, ExpirationTime, NetworkServiceEndpoint, NetworkServiceEndpointSpec,
        NetworkServiceEndpointStatus, Payload, ServiceLabels, Workload, WorkloadResources,
    },
    nsmconfig::{
        Component, ComponentKind, DeletionPolicy, Forwarder, Identity, Images, KnownAccount, LogLevel,
        MeshConnections, NSMConfig, NSMConfigSpec, NSMConfigStatus, Process, PullPolicy, Registry,
        RolloutStatus, ServiceAddress, Storage,
    },
    nsmnodestate::{
        ConnectionCounts, ConnectionState, DesiredNode, ForwarderAdoption, NSMNodeState, NSMNodeStateRoot,
        NSMNodeStateSpec, NSMNodeStateStatus, NodeEndpoint, NodeService, NodeVersions, Truncated,
        UnhealthyConnection,
    },
};

/// Group of the kinds that belong to the operator.
pub const OPERATOR_GROUP: &str = "operator.networkservicemesh.io";

/// Group of the kinds that are shared with upstream's programs.
pub const MESH_GROUP: &str = "networkservicemesh.io";

/// The one name an [`NSMConfig`] may have: there is one mesh a cluster.
pub const CONFIG_NAME: &str = "default";
