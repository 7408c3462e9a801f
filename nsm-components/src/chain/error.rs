//! Why a Request, Close or registration failed.

use std::fmt;

use crate::api::with_causes;

/// What a caller can do about a failure; maps to a gRPC code at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The message cannot be right; repeating it will not help.
    Invalid,
    /// The caller may not do this.
    Denied,
    /// What is asked for does not exist (yet).
    NotFound,
    /// The endpoint's own process does not answer any more; another endpoint may.
    Gone,
    /// A name is taken by another owner.
    Taken,
    /// A limit is reached.
    Exhausted,
    /// A peer or the kernel cannot do it now; repeating it may help.
    Unavailable,
    /// The time was over.
    Deadline,
    /// Something that should not happen.
    Internal,
}

/// A failure with the process that met it. Messages name the object and the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What the caller can do about it.
    pub kind: Kind,
    /// What happened, for people.
    pub message: String,
}

/// What elements return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure with its message.
    pub fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string() }
    }

    /// A failure with the whole chain of its causes as message.
    pub fn caused(kind: Kind, error: &(dyn std::error::Error + 'static)) -> Self {
        Self { kind, message: with_causes(error) }
    }

    /// The same failure, with what was being done put before it.
    #[must_use]
    pub fn while_doing(self, what: impl fmt::Display) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }
}
