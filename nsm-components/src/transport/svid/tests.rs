//! The source through renewals and outages of a Workload API that the test plays.

use std::pin::Pin;

use futures::{Stream, stream};
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Response, Status, transport::Server};

use super::*;
use crate::{
    api::workload::{
        JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
        ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse,
        spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
    },
    transport::testing::Ca,
};

const ID: &str = "spiffe://d/a";
const DEADLINE: Duration = Duration::from_secs(20);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves one stream of what it is given.
struct Api(Mutex<Option<mpsc::Receiver<Result<X509svidResponse, Status>>>>);

#[tonic::async_trait]
impl SpiffeWorkloadApi for Api {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        assert_eq!(request.metadata().get(SECURITY_HEADER).unwrap(), "true");
        let answers = self.0.lock().await.take().ok_or_else(|| Status::unavailable("no more"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Ok(Response::new(Box::pin(stream::empty())))
    }

    async fn fetch_jwtsvid(&self, _: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Ok(Response::new(Box::pin(stream::empty())))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// A Workload API for one stream; it ends with the handle.
fn serve(path: &std::path::Path) -> (mpsc::Sender<Result<X509svidResponse, Status>>, AbortOnDropHandle<()>) {
    let _ = std::fs::remove_file(path);
    let listener = UnixListenerStream::new(tokio::net::UnixListener::bind(path).unwrap());
    let (sender, answers) = mpsc::channel(8);
    let service = SpiffeWorkloadApiServer::new(Api(Mutex::new(Some(answers))));
    let serving = Server::builder().add_service(service).serve_with_incoming(listener);
    (sender, AbortOnDropHandle::new(tokio::spawn(async move { serving.await.unwrap() })))
}

async fn outage_is(source: &Source, down: bool) -> Option<Outage> {
    let mut outage = source.outage();
    let found = tokio::time::timeout(DEADLINE, outage.wait_for(|outage| outage.is_some() == down)).await;
    found.unwrap().unwrap().clone()
}

#[tokio::test]
async fn the_last_svid_is_kept_while_the_workload_api_is_away_and_a_new_one_taken_after() {
    let folder = tempfile::tempdir().unwrap();
    let (path, ca) = (folder.path().join("a.sock"), Ca::new());
    let source = Source::start(&Target::Unix(path.clone()));
    // Before the socket is there, somebody waits for it.
    let waiting = {
        let source = source.clone();
        async move { source.wait(DEADLINE, &CancellationToken::new()).await }
    };
    let waiting = tokio::spawn(waiting);
    let outage = outage_is(&source, true).await.unwrap();
    assert!(source.current().is_err(), "{outage:?}");
    let (answers, served) = serve(&path);
    answers.send(Ok(ca.svid(ID, Duration::from_hours(1)))).await.unwrap();
    let first = waiting.await.unwrap().unwrap();
    assert!(outage_is(&source, false).await.is_none());

    drop((answers, served));
    let began = outage_is(&source, true).await.unwrap();
    assert!(Arc::ptr_eq(&source.current().unwrap(), &first));
    let (answers, _served) = serve(&path);
    assert!(source.outage().borrow().as_ref().is_none_or(|outage| outage.since == began.since), "one outage");
    answers.send(Ok(ca.svid(ID, Duration::from_hours(1)))).await.unwrap();
    outage_is(&source, false).await;
    assert!(!Arc::ptr_eq(&source.current().unwrap(), &first));
}

#[tokio::test]
async fn an_svid_that_is_not_renewed_in_time_is_an_outage_though_the_stream_stands() {
    let folder = tempfile::tempdir().unwrap();
    let (path, ca) = (folder.path().join("a.sock"), Ca::new());
    let (answers, _served) = serve(&path);
    let source = Source::start(&Target::Unix(path));
    answers.send(Ok(ca.svid(ID, Duration::from_secs(3)))).await.unwrap();
    source.wait(DEADLINE, &CancellationToken::new()).await.unwrap();
    let outage = outage_is(&source, true).await.unwrap();
    assert!(outage.reason.contains("renew"), "{outage:?}");
    answers.send(Ok(ca.svid(ID, Duration::from_hours(1)))).await.unwrap();
    outage_is(&source, false).await;
}

#[tokio::test]
async fn an_answer_that_cannot_be_used_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (path, ca) = (folder.path().join("a.sock"), Ca::new());
    let (answers, _served) = serve(&path);
    let source = Source::start(&Target::Unix(path));
    answers.send(Ok(ca.svid(ID, Duration::from_hours(1)))).await.unwrap();
    let first = source.wait(DEADLINE, &CancellationToken::new()).await.unwrap();
    let mut other = ca.svid(ID, Duration::from_hours(1));
    other.svids[0].spiffe_id = "spiffe://d/another".into();
    answers.send(Ok(other)).await.unwrap();
    let outage = outage_is(&source, true).await.unwrap();
    assert!(outage.reason.contains("another SPIFFE ID"), "{outage:?}");
    assert!(Arc::ptr_eq(&source.current().unwrap(), &first));
}
