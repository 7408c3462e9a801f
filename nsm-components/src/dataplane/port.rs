//! The border to the kernel.

use std::io;

use async_trait::async_trait;
use nix::errno::Errno;

use super::{
    desired::Footprint,
    ids::NetnsKey,
    netns::{Namespaces, Netns},
    observed::{Observed, OwnedLink},
    operation::Operation,
    survey::Found,
};

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Links only; the rest reads as empty.
    Links,
    /// Links, addresses and routes.
    Routes,
    /// Neighbours too: the kernel searches those of all namespaces.
    Neighbours,
}

/// Decides on the changes after a look. It runs where the kernel is asked: quick, and without effects.
pub type Decide = Box<dyn FnOnce(Observed) -> Vec<Operation> + Send>;

/// Why [`Kernel::converge`] failed.
#[derive(Debug)]
pub enum Stopped {
    /// The look.
    Observe(KernelError),
    /// A change.
    Apply(Box<Failure>),
}

/// What this process asks of the kernel.
///
/// # Cancel safety
/// A dropped future does not stop an operation that has begun: it runs to its end, and only its
/// answer is lost. The next `observe` sees what it did.
#[async_trait]
pub trait Kernel: Send + Sync + 'static {
    /// What is at the places of a connection. A namespace that is gone is no error.
    async fn observe(
        &self,
        footprint: &Footprint,
        depth: Depth,
        netns: &Namespaces,
    ) -> Result<Observed, KernelError>;

    /// Makes the changes in order. The first that fails ends it; a few after it, already sent in
    /// the same batch, may have been made and are then in [`Failure::applied`].
    async fn apply(&self, operations: Vec<Operation>, netns: &Namespaces) -> Result<(), Box<Failure>>;

    /// A look and the changes that follow from it, in one go.
    async fn converge(
        &self,
        footprint: &Footprint,
        depth: Depth,
        netns: &Namespaces,
        decide: Decide,
    ) -> Result<(), Stopped> {
        let observed = self.observe(footprint, depth, netns).await.map_err(Stopped::Observe)?;
        self.apply(decide(observed), netns).await.map_err(Stopped::Apply)
    }

    /// All links of ours in a namespace, finished or not.
    async fn list_owned(&self, netns: &Netns) -> Result<Vec<OwnedLink>, KernelError>;

    /// All links and rules of the mesh that can be seen from here, whoever made them: in all namespaces to
    /// which there is a path, and links alone in those that the underlay's namespace has a number for.
    async fn survey(&self) -> Result<Vec<Found>, KernelError>;
}

/// A change that was not made.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}")]
pub struct Failure {
    /// The change.
    pub operation: Operation,
    /// What was made in the same call, in order.
    pub applied: Vec<Operation>,
    /// Why.
    #[source]
    pub source: KernelError,
}

/// The kernel's answer, or why it could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel said no.
    #[error("the kernel answers {}{}", .errno, .text.as_ref().map(|text| format!(": {text}")).unwrap_or_default())]
    Refused {
        /// Its number.
        errno: Errno,
        /// Its own words (extended acknowledgement), where it has any.
        text: Option<String>,
    },
    /// No way into the namespace.
    #[error("{0} is gone or cannot be entered")]
    NoNetns(NetnsKey),
    /// A setting under /proc/sys that is read-only here.
    #[error("{path} is read-only here: set it to {value} in the pod, or run the forwarder privileged")]
    NotAvailable {
        /// The file.
        path: String,
        /// What it should have been set to.
        value: String,
    },
    /// A setting under /proc/sys.
    #[error("cannot write {path}")]
    Sysctl {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The socket to the kernel or the thread that holds it.
    #[error("cannot {doing}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An answer that does not follow the protocol.
    #[error("cannot read the kernel's answer: {0}")]
    Answer(String),
}

// === impl KernelError ===

impl KernelError {
    /// The number, if the kernel gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}
