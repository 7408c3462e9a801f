//! A chain behind real sockets: many Requests at once, and the stop in the midst of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::future::join_all;
use tokio::{sync::Semaphore, task::JoinHandle};
use tonic::{Code, transport::Server};

use super::*;
use crate::{
    api::{
        networkservice::{
            network_service_client::NetworkServiceClient, network_service_server::NetworkServiceServer,
        },
        peer::Address,
        trust::Trust,
    },
    chain::{Element, Next, Reply, Result as ChainResult},
    daemon::Admission,
    elements::Admit,
    settings::Target,
    transport::{Channel, Channels, Listener, Source, testing},
};

/// Holds Requests until it has a permit for each, and tells how many it began.
#[derive(Clone)]
struct Slow {
    permits: Arc<Semaphore>,
    begun: Arc<AtomicUsize>,
}

#[async_trait]
impl Element for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> ChainResult<Reply> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.permits.acquire().await.unwrap().forget();
        next.request(cx, request).await
    }
}

struct Process {
    folder: tempfile::TempDir,
    slow: Slow,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), crate::transport::Error>>,
}

/// A process that works on `limit` Requests at once.
fn process(source: Source, limit: usize) -> Process {
    let (folder, stop) = (tempfile::tempdir().unwrap(), CancellationToken::new());
    let slow = Slow { permits: Arc::new(Semaphore::new(0)), begun: Arc::default() };
    let admission = Admission::new(limit, stop.clone());
    let admit = Admit::new(admission, Trust::Prefixes(Vec::new()), Arc::default());
    let chain = Chain::new([Arc::new(admit) as Arc<dyn Element>, Arc::new(slow.clone())]);
    let service = ConnectionService::new(chain, Arc::default(), Duration::from_mins(1), stop.clone());
    let listener = Listener::bind(&Target::Unix(folder.path().join("a.sock"))).unwrap();
    let router = Server::builder().add_service(NetworkServiceServer::new(service));
    let serving = tokio::spawn(listener.serve(router, source, stop.clone()));
    Process { folder, slow, stop, serving }
}

impl Process {
    async fn channel(&self, source: &Source) -> Channel {
        let address = Address::Unix(self.folder.path().join("a.sock"));
        Channels::new(source.clone(), Duration::from_secs(5)).get(&address).await.unwrap()
    }

    async fn begun(&self, count: usize) {
        let reached = async {
            while self.slow.begun.load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), reached).await.expect("not begun in time");
    }
}

/// Asks in a task of its own.
fn ask(channel: &Channel) -> JoinHandle<Result<Response<Connection>, Status>> {
    let mut client = NetworkServiceClient::new(channel.grpc.clone());
    let message =
        NetworkServiceRequest { connection: Some(Connection::default()), ..NetworkServiceRequest::default() };
    let mut call = Call::new(message);
    call.set_timeout(Duration::from_secs(20));
    tokio::spawn(async move { client.request(call).await })
}

#[tokio::test]
async fn a_client_that_floods_a_process_holds_up_itself_and_nobody_else() {
    let [own, greedy, modest] =
        &testing::sources(&["spiffe://d/own", "spiffe://d/greedy", "spiffe://d/modest"])[..]
    else {
        panic!("three were asked for")
    };
    let process = process(own.clone(), 8);
    let (greedy, modest) = (process.channel(greedy).await, process.channel(modest).await);
    // Two may run, 32 wait, the others are too many.
    let flood: Vec<_> = (0..40).map(|_| ask(&greedy)).collect();
    process.begun(2).await;
    let asked = ask(&modest);
    process.begun(3).await;
    process.slow.permits.add_permits(40);
    asked.await.unwrap().unwrap();
    let answers = join_all(flood).await.into_iter().map(Result::unwrap);
    let (good, bad): (Vec<_>, Vec<_>) = answers.partition(Result::is_ok);
    assert_eq!((good.len(), bad.len()), (34, 6));
    for status in bad.into_iter().map(Result::unwrap_err) {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        let named = status.message().contains("NSM_MAX_REQUESTS_IN_FLIGHT=8");
        assert!(named && status.message().contains("spiffe://d/greedy"), "{status}");
    }
}

#[tokio::test]
async fn at_the_stop_a_call_in_flight_is_finished_one_that_waits_is_refused_and_nobody_new_is_let_in() {
    let sources = testing::sources(&["spiffe://d/own", "spiffe://d/client"]);
    let process = process(sources[0].clone(), 1);
    let channel = process.channel(&sources[1]).await;
    let (runs, waits) = (ask(&channel), ask(&channel));
    process.begun(1).await;
    // The second one is not begun: it waits.
    tokio::time::timeout(Duration::from_millis(50), process.begun(2)).await.unwrap_err();
    process.stop.cancel();
    let status = waits.await.unwrap().unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the process stops: ask again"));
    let address = Address::Unix(process.folder.path().join("a.sock"));
    let new = Channels::new(sources[1].clone(), Duration::from_millis(200)).get(&address).await;
    assert!(new.is_err());
    assert!(!process.serving.is_finished());
    process.slow.permits.add_permits(1);
    runs.await.unwrap().unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(3), process.serving).await;
    ended.expect("it waits for nothing").unwrap().unwrap();
}
