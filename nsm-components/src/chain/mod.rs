//! The chain engine: small elements, each of which may act before the next one, after it, or
//! instead of it; and the session, which gives every connection a task of its own.

mod backoff;
mod clock;
mod element;
mod error;
mod merge;
mod registry;
mod session;

pub use self::{
    backoff::{Backoff, jitter},
    clock::{BootClock, Clock, Now, Slept, SystemClock},
    element::{Caller, Chain, Cx, Element, Hop, Link, Memory, Next, Remembered, Reply, Request},
    error::{Error, Kind, Result},
    registry::{Entry, Event, Events, Query, RegistryChain, RegistryCx, RegistryElement, RegistryNext},
    session::{Cure, Policy, Session, SessionCounts, Suspended},
};
