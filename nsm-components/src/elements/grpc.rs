//! Where chains meet gRPC: codes, deadlines, tokens and files of calls.

use std::{error::Error as _, sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic::{Code, Status, TimeoutExpired, metadata::MetadataMap};

use crate::{
    api::{
        Mechanism, mechanism,
        peer::{FileKey, Files},
    },
    chain::{Caller, Error, Kind, Link, Result},
    transport::{self, Accepted, FdTable, Session},
};

/// Limit of a call that names none, and the most one may ask for.
const CALL_LIMIT: (Duration, Duration) = (Duration::from_secs(15), Duration::from_mins(2));

/// Longest wait for a file that a message names.
const FILE_LIMIT: Duration = Duration::from_secs(5);

/// The status of a failure.
pub(super) fn status(error: &Error) -> Status {
    let code = match error.kind {
        Kind::Invalid => Code::InvalidArgument,
        Kind::Denied => Code::PermissionDenied,
        Kind::NotFound => Code::NotFound,
        // By gRPC's advice: to be tried again at a higher level.
        Kind::Gone => Code::Aborted,
        Kind::Taken => Code::AlreadyExists,
        Kind::Exhausted => Code::ResourceExhausted,
        Kind::Unavailable => Code::Unavailable,
        Kind::Deadline => Code::DeadlineExceeded,
        Kind::Internal => Code::Internal,
    };
    Status::new(code, error.message.clone())
}

/// The failure behind a status that `peer` answered, or that stands for its silence.
pub(super) fn failure(status: &Status, peer: impl std::fmt::Display) -> Error {
    let kind = match status.code() {
        Code::InvalidArgument => Kind::Invalid,
        Code::PermissionDenied | Code::Unauthenticated => Kind::Denied,
        Code::NotFound => Kind::NotFound,
        Code::Aborted => Kind::Gone,
        Code::AlreadyExists => Kind::Taken,
        Code::ResourceExhausted => Kind::Exhausted,
        // tonic tells of a limit that passed in its own words.
        Code::DeadlineExceeded | Code::Cancelled => Kind::Deadline,
        Code::Internal => Kind::Internal,
        // Upstream wraps every deeper error into Unknown.
        _ => Kind::Unavailable,
    };
    Error::new(kind, format_args!("{peer}: {}", status.message()))
}

/// Whether the call never reached a handler: the connection broke, not the peer refused or the
/// time ran out.
pub(super) fn is_broken(status: &Status) -> bool {
    let (mut cause, mut in_time) = (status.source(), true);
    while let Some(error) = cause {
        in_time &= !error.is::<TimeoutExpired>();
        cause = error.source();
    }
    in_time
        && status.source().is_some()
        && matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal)
}

/// When a call has to be done, by its `grpc-timeout` (gRPC over HTTP/2, "Timeout").
pub(super) fn deadline(metadata: &MetadataMap) -> Instant {
    let limit = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(timeout);
    Instant::now() + limit.unwrap_or(CALL_LIMIT.0).min(CALL_LIMIT.1)
}

fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// The connection a call came on.
pub(super) fn accepted<T>(request: &tonic::Request<T>) -> std::result::Result<Accepted, Status> {
    let accepted = request.extensions().get::<Accepted>().cloned();
    accepted.ok_or_else(|| Status::unauthenticated("calls need a connection with mutual TLS"))
}

/// The session with a peer; tokens for it live at most that long.
#[derive(Debug)]
struct OnSession {
    session: Arc<Session>,
    life: Duration,
}

impl Link for OnSession {
    fn own_id(&self) -> &str {
        self.session.own_id()
    }

    fn own_token(&self) -> Result<(Arc<str>, i64)> {
        let own = self.session.token(self.life).map_err(|error| Error::caused(Kind::Internal, &error))?;
        Ok((own.text, own.expires))
    }

    fn is_signed(&self, token: &str) -> bool {
        self.session.verify(token)
    }

    fn certificate(&self) -> &[u8] {
        self.session.certificate()
    }
}

/// What a chain knows of the connection to a peer.
pub(super) fn link(session: Arc<Session>, life: Duration) -> Arc<dyn Link> {
    Arc::new(OnSession { session, life })
}

/// Who called.
pub(super) fn caller(session: &Arc<Session>, metadata: &MetadataMap, life: Duration) -> Arc<Caller> {
    let token = session.received(metadata).map(|token| (token.text, token.expires));
    let link = link(session.clone(), life);
    Arc::new(Caller { peer: session.peer.clone(), token, link })
}

/// Takes the files of these URLs from what arrived.
pub(super) async fn claim(table: &FdTable, urls: &[String], deadline: Instant) -> Result<Files> {
    let deadline = deadline.min(Instant::now() + FILE_LIMIT);
    let mut files = Files::default();
    for key in urls.iter().filter_map(|url| url.parse::<FileKey>().ok()) {
        if files.get(key).is_none() {
            let file = table.take(key, deadline).await;
            files.insert(key, file.map_err(|error| unclaimed(&error))?);
        }
    }
    Ok(files)
}

/// Who sent no file made a mistake; one that was dropped may be sent again.
fn unclaimed(error: &transport::Error) -> Error {
    let kind = if matches!(error, transport::Error::Cut { .. }) { Kind::Exhausted } else { Kind::Invalid };
    Error::caused(kind, error)
}

/// Takes those files of these URLs that are here. A Close goes on without the others: who closes
/// what expired has none, and a file is sent before the message that names it.
pub(super) fn claim_arrived(table: &FdTable, urls: &[String]) -> Files {
    let mut files = Files::default();
    for key in urls.iter().filter_map(|url| url.parse::<FileKey>().ok()) {
        if files.get(key).is_none()
            && let Some(file) = table.take_arrived(key)
        {
            files.insert(key, file);
        }
    }
    files
}

/// The file URLs that mechanisms name.
pub(super) fn urls<'a>(mechanisms: impl IntoIterator<Item = &'a Mechanism>) -> Vec<String> {
    let urls = mechanisms.into_iter().filter_map(|mechanism| mechanism.get(mechanism::INODE_URL));
    urls.map(str::to_owned).collect()
}

/// Of `files`, those that these URLs name.
pub(super) fn named(files: &Files, urls: &[String]) -> Files {
    let mut some = Files::default();
    for key in urls.iter().filter_map(|url| url.parse::<FileKey>().ok()) {
        if let Some(file) = files.get(key) {
            some.insert(key, file.clone());
        }
    }
    some
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_keeps_its_kind_over_the_wire() {
        for kind in [
            Kind::Invalid,
            Kind::Denied,
            Kind::NotFound,
            Kind::Gone,
            Kind::Taken,
            Kind::Exhausted,
            Kind::Unavailable,
            Kind::Deadline,
            Kind::Internal,
        ] {
            assert_eq!(failure(&status(&Error::new(kind, "x")), "peer").kind, kind);
        }
    }

    #[test]
    fn a_call_that_ran_out_of_time_has_not_broken_its_connection() {
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(is_broken(&Status::from_error(broken.into())));
        assert!(!is_broken(&Status::from_error(TimeoutExpired(()).into())));
        let source = TimeoutExpired(()).into();
        let wrapped = crate::transport::Error::Dial { address: "peer".into(), source };
        assert!(!is_broken(&Status::from_error(wrapped.into())));
        assert!(!is_broken(&Status::unavailable("the peer's own answer")));
    }

    #[test]
    fn a_file_that_was_dropped_may_be_sent_again_and_one_that_never_came_is_a_mistake() {
        let (cut, none) =
            (transport::Error::Cut { key: "k".into() }, transport::Error::NoFile { key: "k".into() });
        assert_eq!((unclaimed(&cut).kind, unclaimed(&none).kind), (Kind::Exhausted, Kind::Invalid));
    }

    #[test]
    fn timeouts_are_read_in_all_units_and_nonsense_is_none() {
        assert_eq!(timeout("14925251u"), Some(Duration::from_micros(14_925_251)));
        assert_eq!(timeout("2S"), Some(Duration::from_secs(2)));
        for text in ["", "S", "5", "-1S", "123456789S", "1x", "é"] {
            assert_eq!(timeout(text), None, "{text}");
        }
    }
}
