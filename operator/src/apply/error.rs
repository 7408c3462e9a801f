//! Why a write failed, and whether another try may help.

use kube::core::Status;

use super::TIMEOUT;
use crate::names;

/// A write that failed. The texts end with what the API server said.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer in time.
    #[error("{what}: no answer of the API server within {TIMEOUT:?}")]
    Timeout {
        /// What was written.
        what: String,
    },
    /// Another operator may be at work.
    #[error("{what}: not written, this operator does not lead any more")]
    NotLeading {
        /// What was to be written.
        what: String,
    },
    /// Not allowed, now.
    #[error("{what}: not allowed: {message}")]
    Forbidden {
        /// What was written.
        what: String,
        /// The API server's words.
        message: String,
    },
    /// An object with that name exists and was not made by the operator.
    #[error(
        "{what} exists and is not the operator's: rename or delete it, or hand it over by the label {}={}",
        names::MANAGED_BY,
        names::MANAGER
    )]
    Taken {
        /// The object.
        what: String,
    },
    /// The API server will never take this.
    #[error("{what}: refused: {message}")]
    Refused {
        /// What was written.
        what: String,
        /// The API server's words.
        message: String,
    },
    /// The request did not get through.
    #[error("{what}: {source}")]
    Request {
        /// What was written.
        what: String,
        /// What the client said.
        #[source]
        source: Box<kube::Error>,
    },
}

impl Error {
    /// Whether trying again without a change elsewhere is pointless.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    /// Whether the API server does not know the object or its kind.
    pub fn is_missing(&self) -> bool {
        let missing = |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.code == 404);
        matches!(self, Self::Request { source, .. } if missing(source))
    }

    pub(super) fn from_kube(what: String, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from_status(what, *status),
            source => Self::Request { what, source: Box::new(source) },
        }
    }

    fn from_status(what: String, status: Status) -> Self {
        // An unknown field is a 500 without a reason: never better by itself.
        let unknown_field = status.message.contains("field not declared in schema");
        if status.is_forbidden() {
            Self::Forbidden { what, message: status.message }
        } else if unknown_field || matches!(status.code, 400 | 422) {
            Self::Refused { what, message: status.message }
        } else {
            Self::Request { what, source: Box::new(kube::Error::Api(status.boxed())) }
        }
    }
}

pub(super) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict())
}

/// Gone, or another object by now: the uid in the precondition does not fit.
pub(super) fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found() || status.is_conflict())
}
