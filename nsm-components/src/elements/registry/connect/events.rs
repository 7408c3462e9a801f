//! The events of a Find: with the sockets that their URLs name, and never left unread.

use std::{pin::pin, time::Duration};

use futures::{FutureExt, Stream, StreamExt, stream, stream::BoxStream};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Response, Status};
use tracing::debug;

use super::Wire;
use crate::{
    api::peer::FileKey,
    chain::{Error, Event, Kind, Result},
    transport::FdTable,
};

/// Longest wait for the sockets of endpoints that come together.
pub(super) const SOCKETS: Duration = Duration::from_secs(1);

/// Longest wait for the head of a watch's answer.
const HEAD: Duration = Duration::from_millis(250);

/// Events that wait to be read, and how long a full queue holds the peer up.
const QUEUE: (usize, Duration) = (1024, Duration::from_secs(5));

/// The answers of a watch. Upstream's registries send the head of an answer only with its first event,
/// and there may be none for long: a watch whose head does not come is open all the same.
pub(super) async fn opened<A, S>(
    call: impl Future<Output = std::result::Result<Response<S>, Status>> + Send + 'static,
) -> std::result::Result<BoxStream<'static, std::result::Result<A, Status>>, Status>
where
    A: Send + 'static,
    S: Stream<Item = std::result::Result<A, Status>> + Send + 'static,
{
    let mut call = Box::pin(call);
    if let Ok(answer) = tokio::time::timeout(HEAD, &mut call).await {
        return answer.map(|answer| answer.into_inner().boxed());
    }
    let late = stream::once(call).flat_map(|answer| match answer {
        Ok(answer) => answer.into_inner().left_stream(),
        Err(status) => stream::once(std::future::ready(Err(status))).right_stream(),
    });
    Ok(late.boxed())
}

/// The events, read from the peer whether somebody takes them or not: what nobody reads would fill the
/// window of the whole connection and hold up everybody else's. Who does not read is cut off.
pub(super) fn bounded<T: Wire>(
    events: impl Stream<Item = Result<Event<T>>> + Send + 'static,
) -> impl Stream<Item = Result<Event<T>>> + Send {
    let (sender, receiver) = mpsc::channel(QUEUE.0);
    let task = tokio::spawn(async move {
        let mut events = pin!(events);
        while let Some(event) = events.next().await {
            if sender.send_timeout(event, QUEUE.1).await.is_err() {
                return true;
            }
        }
        false
    });
    let state = Some((receiver, AbortOnDropHandle::new(task)));
    stream::unfold(state, |state| async {
        let (mut receiver, task) = state?;
        if let Some(event) = receiver.recv().await {
            return Some((event, Some((receiver, task))));
        }
        let cut = Error::new(Kind::Exhausted, "the watcher is too slow: ask again");
        task.await.is_ok_and(|is_cut| is_cut).then_some((Err(cut), None))
    })
}

/// The events with the sockets that their URLs name, if they come. Those of events that follow each
/// other without a pause are waited for together: a registry with many endpoints whose sockets are
/// gone must not take a wait for each.
pub(super) fn with_files<T: Wire, H: Send + 'static>(
    events: impl Stream<Item = Result<Event<T>>> + Send + Unpin + 'static,
    holder: H,
    files: fn(&H) -> &FdTable,
    limit: Option<Instant>,
) -> impl Stream<Item = Result<Event<T>>> + Send {
    let start = Instant::now() + SOCKETS;
    stream::unfold((events, holder, start), move |(mut events, holder, mut deadline)| async move {
        let event = if let Some(event) = events.next().now_or_never() {
            event
        } else {
            let event = events.next().await;
            deadline = Instant::now() + SOCKETS;
            event
        };
        let event = match event? {
            Ok(event) => {
                let deadline = limit.map_or(deadline, |limit| limit.min(deadline));
                Ok(with_file(event, files(&holder), deadline).await)
            }
            Err(error) => Err(error),
        };
        Some((event, (events, holder, deadline)))
    })
}

/// The event with the socket that its URL names, if it came.
async fn with_file<T: Wire>(mut event: Event<T>, files: &FdTable, deadline: Instant) -> Event<T> {
    let Ok(key) = event.entry.url().parse::<FileKey>() else { return event };
    if event.deleted {
        return event;
    }
    match files.take(key, deadline).await {
        Ok(file) => event.files.insert(key, file),
        Err(error) => debug!(endpoint = event.entry.name(), %error, "an endpoint's socket did not come"),
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{peer::Files, registry::NetworkServiceEndpoint};

    #[tokio::test(start_paused = true)]
    async fn many_sockets_that_do_not_come_take_one_wait() {
        let event = |ino: u64| {
            let url = FileKey { dev: 1, ino }.to_string();
            let entry = NetworkServiceEndpoint { url, ..NetworkServiceEndpoint::default() };
            Ok(Event { entry, deleted: false, files: Files::default() })
        };
        let (begin, events) = (Instant::now(), stream::iter((0..50).map(event)));
        let all: Vec<_> = with_files(events, FdTable::default(), |files| files, None).collect().await;
        assert_eq!(all.len(), 50);
        assert!(begin.elapsed() <= SOCKETS + Duration::from_millis(100), "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_whose_answer_has_no_head_yet_is_open_and_tells_what_comes_later() {
        let begin = Instant::now();
        let answer = |events: Vec<std::result::Result<u8, Status>>| async move {
            tokio::time::sleep(Duration::from_mins(1)).await;
            Ok(Response::new(stream::iter(events)))
        };
        let events = opened(answer(vec![Ok(1), Ok(2)])).await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        assert_eq!(events.map(|event| event.unwrap()).collect::<Vec<_>>().await, [1, 2]);
        let refused = async {
            tokio::time::sleep(Duration::from_mins(1)).await;
            Err::<Response<stream::Empty<std::result::Result<u8, Status>>>, _>(Status::unavailable("x"))
        };
        assert!(opened(refused).await.unwrap().next().await.unwrap().is_err());
        let at_once = async { Err::<Response<stream::Empty<_>>, _>(Status::unavailable("x")) };
        assert!(opened::<u8, _>(at_once).await.is_err(), "who is refused at once is told so");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_holds_the_peer_up_for_a_time_and_is_then_cut_off() {
        let event =
            || Event { entry: NetworkServiceEndpoint::default(), deleted: false, files: Files::default() };
        let (sender, peer) = mpsc::channel(1);
        let events = bounded(tokio_stream::wrappers::ReceiverStream::new(peer));
        let begin = Instant::now();
        while sender.send(Ok(event())).await.is_ok() {}
        assert!(begin.elapsed() >= QUEUE.1 && begin.elapsed() < QUEUE.1 * 2, "{:?}", begin.elapsed());
        let seen: Vec<_> = events.collect().await;
        assert_eq!(seen.len(), QUEUE.0 + 1);
        assert_eq!(seen.last().unwrap().as_ref().unwrap_err().kind, Kind::Exhausted);
    }

    #[tokio::test]
    async fn a_stream_that_the_peer_ends_ends_without_an_error_of_our_own() {
        let none = stream::empty::<Result<Event<NetworkServiceEndpoint>>>();
        assert_eq!(bounded(none).count().await, 0);
    }
}
