//! Connections as kernel objects: from a connection and its context to links, addresses, routes,
//! rules and neighbours, and back to nothing.
//!
//! ```text
//! Connection + Side x 2 ──plan──▶ Desired ──┐
//!                                           ├─diff──▶ [Operation] ──apply──▶ kernel
//!        kernel ──observe──▶ Observed ──────┘
//! ```
//!
//! `plan` and `diff` are pure. The kernel stands behind one port, [`Kernel`], with two adapters:
//! [`Netlink`], the real one, and [`Memory`], for tests of what stands above. [`Dataplane`] puts
//! the four steps together; the same code creates, refreshes, heals and adopts after a restart.
//!
//! Guarantees:
//! * A link that is not marked as ours ([`crate::api::names::LINK_GROUP`]) is never changed or deleted,
//!   nor is one deleted that names another forwarder.
//! * What is as desired is not touched: a refresh writes nothing.
//! * A call that fails takes back what it made.
//! * No namespace is kept alive: descriptors and sockets live as long as one operation.
//!
//! Deliberately absent: time. When a connection ends is decided above; the [`Journal`] only keeps
//! what the next process has to know.

mod announce;
mod desired;
mod diff;
mod facade;
mod ids;
mod journal;
mod memory;
mod netlink;
mod netns;
mod observed;
mod operation;
mod pathmtu;
mod plan;
mod policy;
mod port;
mod retired;
mod survey;
mod traffic;
mod wireguard;

pub use desired::{Desired, End, Footprint, Link, Neighbour, Place, Role, VxlanLink};
pub use diff::{Conflict, diff, removal};
pub use facade::{Applied, Dataplane, Error, Removed};
pub use ids::{BadConnectionId, ConnectionId, ForwarderId, NetnsKey};
pub use journal::{Entry, Journal, JournalError, Quiesced};
pub use memory::Memory;
pub use netlink::{Broken, Counters, LinkEvents, Netlink};
pub use netns::{Namespaces, Netns};
pub use observed::{Distant, Observed, ObservedEnd, ObservedKind, ObservedLink, OwnedLink, Owner};
pub use operation::{At, Operation};
pub use pathmtu::PathMtus;
pub use plan::{PlanError, Side, plan};
pub use policy::{MAIN, ObservedPolicy, Policies, Rule};
pub use port::{Decide, Depth, Failure, Kernel, KernelError, Stopped};
pub use survey::{Found, Kind as OrphanKind, Orphan, Whereabouts};
pub use traffic::{Traffic, segment_metrics};
pub use wireguard::{KeyError, PrivateKey, PublicKey, WireguardLink};
