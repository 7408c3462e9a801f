//! Types and reasons of all conditions. The reasons are closed enums: tools may match on them.

/// Condition type: everything that was asked for is there and works.
pub const CONDITION_READY: &str = "Ready";

/// Condition type: the operator is at work; `True` only until what was asked for is applied.
pub const CONDITION_RECONCILING: &str = "Reconciling";

/// Condition type: nothing goes on by itself; someone must act as the message says.
pub const CONDITION_STALLED: &str = "Stalled";

/// Condition type: the admission policies of the installation are in force.
pub const CONDITION_PROTECTED: &str = "Protected";

/// Condition type: the node has closed all its connections, as it was asked to, and takes none.
pub const CONDITION_DRAINED: &str = "Drained";

/// Condition type: the object is taken as it is; `False` says what must change in it.
pub const CONDITION_ACCEPTED: &str = "Accepted";

/// A reason of a condition, in the CamelCase form that stands in the object.
pub trait Reason: Copy {
    /// The text of the reason.
    fn as_str(self) -> &'static str;
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl Reason for $name {
            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)* }
            }
        }
    };
}

reasons! {
    /// Reasons in the conditions of an `NSMConfig`.
    ConfigReason {
        /// All components run on all their nodes.
        AllReady,
        /// Components start; nothing has to be done.
        Progressing,
        /// A component does not get ready by itself: the message names it and what to look at.
        ComponentNotReady,
        /// The API server refused a write: the message has its words.
        ApplyFailed,
        /// The settings cannot be used: the message says which and what would be right.
        InvalidConfig,
        /// What was asked for is applied.
        UpToDate,
        /// The mesh is being removed: the message says what that waits for.
        Deleting,
        /// The mesh is removed as soon as its last connection is closed.
        WaitingForIdle,
        /// Someone undoes what the operator writes: the message names the fields and their managers.
        NonConverging,
        /// More than half of the mesh would be deleted at once, and is not: the message names what, and how
        /// to allow it.
        PruneHeld,
        /// A new revision of the node daemons did not get ready on a node, which has the old one back: the
        /// message names it.
        RolloutHalted,
        /// The API server is too old for this operator, which does nothing.
        UnsupportedServer,
        /// Admission policies of the installation are not in force: the message names them.
        PoliciesMissing,
        /// All admission policies of the installation are in force.
        PoliciesInForce,
        /// The annotation `operator.networkservicemesh.io/paused` is set: nothing is written.
        Paused,
        /// The annotation `operator.networkservicemesh.io/plan-only` is set: the message tells what would
        /// be written.
        PlanOnly,
    }
}

reasons! {
    /// Reasons in the conditions of an `NSMNodeState`.
    NodeReason {
        /// The nsmgr serves and has a forwarder.
        Serving,
        /// No forwarder is registered at this node's nsmgr: no connection can be made.
        NoForwarder,
        /// The registry cannot be reached: known endpoints still serve, new ones are not found.
        RegistryUnreachable,
        /// The nsmgr stopped in order and reports no more.
        Stopped,
        /// Connections are being closed: the message says where some are left.
        Closing,
        /// All connections are closed.
        NothingLeft,
    }
}

reasons! {
    /// Reasons in the conditions of a `NetworkService`.
    ServiceReason {
        /// Endpoints are registered and no connection is down.
        EndpointsAvailable,
        /// No endpoint of this service is registered: Requests for it fail.
        NoEndpoints,
        /// Connections of this service are down: the `NSMNodeState`s of the nodes say why.
        ConnectionsDown,
    }
}

reasons! {
    /// Reasons in the conditions of a `NetworkServiceEndpoint` with a workload.
    EndpointReason {
        /// All wanted endpoints run and are registered.
        Registered,
        /// Pods of the workload are not all there yet.
        WorkloadNotReady,
        /// Pods run, but the mesh does not know all of them as endpoints yet.
        NotRegistered,
        /// The operator may not create workloads in this namespace: the message has the command
        /// that allows it.
        NotPermitted,
        /// The workload cannot be rendered: the message says what would be right.
        InvalidWorkload,
        /// The API server refused the workload: the message has its words.
        ApplyFailed,
        /// There is no mesh: no `NSMConfig` is installed.
        NoMesh,
        /// The workload is applied.
        WorkloadApplied,
    }
}
