//! The vocabulary: wire types as generated from `proto/`, and the rules over them that need no
//! clock, no network and no kernel.

pub mod names;

#[cfg(feature = "mesh")]
pub mod access;
#[cfg(feature = "mesh")]
mod causes;
#[cfg(feature = "mesh")]
pub mod checksum;
#[cfg(feature = "mesh")]
pub mod context;
#[cfg(feature = "mesh")]
mod counter;
#[cfg(feature = "mesh")]
pub mod feature;
#[cfg(feature = "mesh")]
pub mod matching;
#[cfg(feature = "mesh")]
pub mod mechanism;
#[cfg(feature = "mesh")]
pub mod packed;
#[cfg(feature = "mesh")]
pub mod path;
#[cfg(feature = "mesh")]
pub mod peer;
#[cfg(feature = "mesh")]
pub mod policies;
#[cfg(feature = "mesh")]
pub mod query;
#[cfg(feature = "mesh")]
pub mod registry_path;
#[cfg(feature = "mesh")]
pub mod selector;
pub mod trust;

#[cfg(feature = "mesh")]
#[allow(missing_docs, clippy::all, clippy::pedantic)]
mod generated {
    pub mod connectioncontext {
        tonic::include_proto!("connectioncontext");
    }
    pub mod connection {
        tonic::include_proto!("connection");
    }
    pub mod networkservice {
        tonic::include_proto!("networkservice");
    }
    pub mod registry {
        tonic::include_proto!("registry");
    }
    pub mod ipam {
        tonic::include_proto!("ipam");
    }
    pub mod identity {
        tonic::include_proto!("nsm.identity");
    }
    pub mod node {
        tonic::include_proto!("nsm.node");
    }
    /// The SPIFFE Workload API has no package.
    pub mod workload {
        tonic::include_proto!("_");
    }
}

#[cfg(feature = "mesh")]
pub use generated::{
    connection, connectioncontext, identity, ipam, networkservice, node, registry, workload,
};

#[cfg(feature = "mesh")]
pub use causes::with_causes;
#[cfg(feature = "mesh")]
pub use counter::Counter;

#[cfg(feature = "mesh")]
pub use connection::{Connection, Mechanism, Path, PathSegment};
