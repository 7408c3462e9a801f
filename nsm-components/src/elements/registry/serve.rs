//! The registry API as a gRPC server: a chain for network services and one for endpoints.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request as Call, Response, Status, metadata::MetadataValue};
use tracing::Instrument;

use super::{Wire, connect::WITHOUT_REFRESHES};
use crate::{
    api::{
        registry::{
            NetworkService, NetworkServiceEndpoint, NetworkServiceEndpointQuery,
            NetworkServiceEndpointResponse, NetworkServiceQuery, NetworkServiceResponse,
            network_service_endpoint_registry_server::NetworkServiceEndpointRegistry,
            network_service_registry_server::NetworkServiceRegistry,
        },
        registry_path::{METADATA_KEY, RegistryPath},
    },
    chain::{RegistryChain, RegistryCx},
    daemon::{Admission, Refusal},
    elements::grpc::{accepted, caller, claim, deadline, status},
};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Metadata of an answer to Find: for how many seconds what is found may be old. Upstream's clients pass
/// over it.
pub const STALE: &str = "nsm-stale-seconds";

/// For how long what is found may be old, if at all.
type Stale = Arc<dyn Fn() -> Option<Duration> + Send + Sync>;

/// Most registrations that are worked on at once.
const AT_ONCE: usize = 256;

/// Serves both registries.
#[derive(Clone)]
pub struct RegistryService {
    services: RegistryChain<NetworkService>,
    endpoints: RegistryChain<NetworkServiceEndpoint>,
    token_life: Duration,
    admission: Arc<Admission>,
    stale: Option<Stale>,
    stop: CancellationToken,
}

impl RegistryService {
    /// Serves these chains; tokens live at most `token_life`. Watches end with the stop, or they would
    /// hold it up.
    pub fn new(
        services: RegistryChain<NetworkService>,
        endpoints: RegistryChain<NetworkServiceEndpoint>,
        token_life: Duration,
        stop: CancellationToken,
    ) -> Self {
        let admission = Admission::new(AT_ONCE, stop.clone());
        Self { services, endpoints, token_life, admission, stale: None, stop }
    }

    /// The same, and answers say when they may be old.
    #[must_use]
    pub fn stale_by(self, stale: impl Fn() -> Option<Duration> + Send + Sync + 'static) -> Self {
        Self { stale: Some(Arc::new(stale)), ..self }
    }

    /// What travels beside the call, and the socket its URL names.
    async fn receive<M>(&self, call: &Call<M>, url: &str) -> Result<RegistryCx, Status> {
        let accepted = accepted(call)?;
        let mut cx = RegistryCx::within(Duration::ZERO);
        cx.deadline = deadline(call.metadata());
        cx.caller = Some(caller(&accepted.session, call.metadata(), self.token_life));
        let path =
            call.metadata().get_all(METADATA_KEY).iter().next_back().and_then(|value| value.to_str().ok());
        *cx.path.lock() = path.and_then(RegistryPath::from_metadata).unwrap_or_default();
        if accepted.local {
            cx.files = claim(&accepted.files, &[url.to_owned()], cx.deadline)
                .await
                .map_err(|error| status(&error))?;
        }
        Ok(cx)
    }
}

impl RegistryService {
    /// Works on a registration in a task of its own: a caller that goes away leaves nothing half done.
    async fn finish<M: Send + 'static>(
        &self,
        cx: &RegistryCx,
        work: impl Future<Output = crate::chain::Result<M>> + Send + 'static,
    ) -> Result<Response<M>, Status> {
        let caller = cx.caller.as_ref().map_or("", |caller| &caller.peer.id);
        let level = cx.path.lock().index as usize;
        let place = self.admission.enter(caller, level, cx.deadline).await;
        let place = place.map_err(|refusal| crowded(caller, &refusal))?;
        let task = async move {
            let done = work.await;
            drop(place);
            done
        };
        let done = tokio::spawn(task.in_current_span()).await;
        let done = done.map_err(|error| Status::internal(format!("a registration was cut: {error}")))?;
        Ok(answer(cx, done.map_err(|error| status(&error))?))
    }
}

/// Why a registration was not begun.
fn crowded(caller: &str, refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Full { .. } | Refusal::Share { .. } => Status::resource_exhausted(format!(
            "too many registrations wait here, of which a quarter may be those of {caller} \
             ({AT_ONCE} are worked on at once): try again later"
        )),
        Refusal::Late { .. } => {
            Status::deadline_exceeded("no time was left when the registration's turn came")
        }
        Refusal::Stopping => Status::unavailable("the process stops: register again"),
    }
}

/// An answer with the path as it is now. Callers check it, also when they take something back.
fn answer<M>(cx: &RegistryCx, message: M) -> Response<M> {
    let mut answer = Response::new(message);
    if let Ok(path) = MetadataValue::try_from(cx.path.lock().to_metadata()) {
        answer.metadata_mut().insert(METADATA_KEY, path);
    }
    answer
}

async fn register<T: Wire>(
    service: &RegistryService,
    chain: &RegistryChain<T>,
    call: Call<T>,
) -> Result<Response<T>, Status> {
    let cx = service.receive(&call, call.get_ref().url()).await?;
    let (entry, chain, within) = (call.into_inner(), chain.clone(), cx.clone());
    service.finish(&cx, async move { chain.start().register(&within, entry).await }).await
}

async fn unregister<T: Wire>(
    service: &RegistryService,
    chain: &RegistryChain<T>,
    call: Call<T>,
) -> Result<Response<()>, Status> {
    // The entry counts, not its socket, which may be gone.
    let cx = service.receive(&call, "").await?;
    let (entry, chain, within) = (call.into_inner(), chain.clone(), cx.clone());
    service.finish(&cx, async move { chain.start().unregister(&within, entry).await }).await
}

async fn find<T: Wire>(
    service: &RegistryService,
    chain: &RegistryChain<T>,
    call: Call<T::Query>,
) -> Result<Response<Answers<T::Response>>, Status>
where
    T::Query: Sync,
{
    let cx = service.receive(&call, "").await?;
    let accepted = accepted(&call)?;
    let without_refreshes = call.metadata().contains_key(WITHOUT_REFRESHES);
    let events = chain.start().find(&cx, T::from_query(call.into_inner(), without_refreshes)).await;
    let events = events.map_err(|error| status(&error))?;
    let answers = events.map(move |event| match event {
        Ok(event) => {
            if accepted.local && !accepted.files.send(&event.files) {
                return Err(Status::resource_exhausted(
                    "the sockets of earlier entries are still waiting to be read",
                ));
            }
            Ok(T::response(event))
        }
        Err(error) => Err(status(&error)),
    });
    let answers: Answers<_> = Box::pin(answers.take_until(service.stop.clone().cancelled_owned()));
    let mut answer = Response::new(answers);
    if let Some(age) = service.stale.as_ref().and_then(|stale| stale()) {
        answer.metadata_mut().insert(STALE, age.as_secs().max(1).into());
    }
    Ok(answer)
}

#[tonic::async_trait]
impl NetworkServiceRegistry for RegistryService {
    type FindStream = Answers<NetworkServiceResponse>;

    async fn register(&self, call: Call<NetworkService>) -> Result<Response<NetworkService>, Status> {
        register(self, &self.services, call).await
    }

    async fn find(&self, call: Call<NetworkServiceQuery>) -> Result<Response<Self::FindStream>, Status> {
        find(self, &self.services, call).await
    }

    async fn unregister(&self, call: Call<NetworkService>) -> Result<Response<()>, Status> {
        unregister(self, &self.services, call).await
    }
}

#[tonic::async_trait]
impl NetworkServiceEndpointRegistry for RegistryService {
    type FindStream = Answers<NetworkServiceEndpointResponse>;

    async fn register(
        &self,
        call: Call<NetworkServiceEndpoint>,
    ) -> Result<Response<NetworkServiceEndpoint>, Status> {
        register(self, &self.endpoints, call).await
    }

    async fn find(
        &self,
        call: Call<NetworkServiceEndpointQuery>,
    ) -> Result<Response<Self::FindStream>, Status> {
        find(self, &self.endpoints, call).await
    }

    async fn unregister(&self, call: Call<NetworkServiceEndpoint>) -> Result<Response<()>, Status> {
        unregister(self, &self.endpoints, call).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_carry_the_path_even_if_they_say_nothing_else() {
        let cx = RegistryCx::within(Duration::ZERO);
        cx.path.lock().advance("nse", "nsmgr");
        let answer = answer(&cx, ());
        let path = answer.metadata().get(METADATA_KEY).unwrap().to_str().unwrap();
        assert_eq!(RegistryPath::from_metadata(path), Some(cx.path.lock().clone()));
    }

    #[tokio::test]
    async fn a_registration_whose_caller_goes_away_is_finished() {
        let (services, endpoints) = (RegistryChain::new([]), RegistryChain::new([]));
        let service =
            RegistryService::new(services, endpoints, Duration::from_mins(1), CancellationToken::new());
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let (done, finished) = tokio::sync::oneshot::channel::<()>();
        let cx = RegistryCx::within(Duration::from_secs(5));
        let work = async move {
            let _ = wait.await;
            let _ = done.send(());
            Ok(())
        };
        let mut call = Box::pin(service.finish(&cx, work));
        assert!(futures::poll!(&mut call).is_pending());
        drop(call);
        go.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(5), finished).await.unwrap().unwrap();
        service.admission.idle().await;
    }
}
