//! Names and numbers that several processes must agree on.

/// Path of the network service API's socket on every node, where clients and endpoints expect it.
pub const NSMGR_SOCKET: &str = "/var/lib/networkservicemesh/nsm.io.sock";

/// Where processes listen unless `NSM_LISTEN_ON` says otherwise.
pub const NSMGR_LISTEN_ON: &str = "unix:///var/lib/networkservicemesh/nsm.io.sock";

/// The same of a forwarder.
pub const FORWARDER_LISTEN_ON: &str = "unix:///var/lib/nsm-forwarder/forwarder.sock";

/// The same of a registry.
pub const REGISTRY_LISTEN_ON: &str = "tcp://:5002";

/// The same of a client.
pub const NSC_LISTEN_ON: &str = "unix:///tmp/nsc.sock";

/// The same of an endpoint.
pub const NSE_LISTEN_ON: &str = "unix:///tmp/nse.sock";

/// Folder of [`NSMGR_SOCKET`]; a host path on Kubernetes.
pub const MESH_DIR: &str = "/var/lib/networkservicemesh";

/// Names of sockets and folders of `nsm standalone` in its base folder, [`MESH_DIR`] by default: what
/// clients and endpoints use, and below `PRIVATE` what the mesh alone does.
pub mod standalone {
    /// The nsmgr's socket, as in [`super::NSMGR_SOCKET`].
    pub const NSMGR: &str = "nsm.io.sock";
    /// The SPIFFE Workload API socket.
    pub const IDENTITY: &str = "agent.sock";
    /// Folder of the CA.
    pub const CA: &str = "identity";
    /// Folder that only the process's user may enter.
    pub const PRIVATE: &str = "private";
}

/// File with the prefixes that no endpoint shall hand out, where upstream's helper writes it.
pub const EXCLUDED_PREFIXES_FILE: &str = "/var/lib/networkservicemesh/config/excluded_prefixes.yaml";

/// Folder of the forwarder alone, a host path on Kubernetes: its socket and its journal. Not below
/// [`MESH_DIR`], which pods see.
pub const FORWARDER_DIR: &str = "/var/lib/nsm-forwarder";

/// Folder of the SPIFFE Workload API socket that the identity agent serves; a host path.
pub const IDENTITY_DIR: &str = "/run/nsm/identity";

/// The SPIFFE Workload API socket of the identity agent.
pub const IDENTITY_SOCKET: &str = "/run/nsm/identity/agent.sock";

/// TCP port of the registry (upstream's).
pub const REGISTRY_PORT: u16 = 5002;

/// TCP port of an nsmgr (upstream's).
pub const NSMGR_PORT: u16 = 5001;

/// TCP port of the identity authority.
pub const AUTHORITY_PORT: u16 = 5010;

/// Audience of the service account tokens by which agents prove themselves to the authority.
pub const AUTHORITY_AUDIENCE: &str = "nsm-identity";

/// Key of the CA certificates (PEM) in the trust bundle's ConfigMap.
pub const BUNDLE_KEY: &str = "bundle.pem";

/// Network service that forwarders offer (upstream's default).
pub const FORWARDER_SERVICE: &str = "forwarder";

/// `IFLA_GROUP` of every link the forwarder makes: "nsm" in ASCII. The mark of ownership.
pub const LINK_GROUP: u32 = 0x006e_736d;

/// `IFLA_GROUP` of a link of ours that was taken out of use and is deleted with others of its kind: "nsx" in
/// ASCII.
pub const RETIRED_LINK_GROUP: u32 = 0x006e_7378;

/// Start of the alias of every finished link; the connection id follows.
pub const LINK_ALIAS_PREFIX: &str = "nsm:";

/// What comes after the connection id, and before the forwarder that made the link. No id has a blank.
pub const LINK_ALIAS_FORWARDER: &str = " of ";
