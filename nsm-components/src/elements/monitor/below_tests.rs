//! What becomes of what the next processes say.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::{
    api::{Path, PathSegment},
    chain::{Chain, Cx, Element, Error, Next, Reply, Request},
};

type Sent = mpsc::Sender<std::result::Result<ConnectionEvent, Status>>;

/// Streams that the test writes; none of what is not there is opened.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<FakeState>>);

#[derive(Default)]
struct FakeState {
    opened: HashMap<String, Vec<Sent>>,
    refusal: Option<Kind>,
    /// How often processes died.
    died: u64,
}

#[async_trait]
impl Peers for Fake {
    async fn open(&self, address: &Address, _: &str) -> Result<PeerEvents> {
        let mut state = self.0.lock();
        if let Some(kind) = state.refusal {
            return Err(Error::new(kind, "told to refuse"));
        }
        let (sender, receiver) = mpsc::channel(16);
        state.opened.entry(address.to_string()).or_default().push(sender);
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }

    fn standing(&self, _: &Address) -> Option<u64> {
        let state = self.0.lock();
        state.refusal.is_none().then_some(state.died)
    }
}

/// Goes on to the process that the labels name.
struct ToNext;

#[async_trait]
impl Element for ToNext {
    fn name(&self) -> &'static str {
        "connect"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        let address = Address::Tcp(request.connection.labels["next"].clone());
        cx.memory.with(|memory| {
            memory.next = Some(crate::chain::Hop {
                address,
                endpoint: String::new(),
                answered: crate::api::packed::Packed::of(&request.connection),
            });
        });
        next.request(cx, request).await
    }
}

/// The connection `id` of the nsmgr through the process `next`; `index` is whose view it is.
fn connection(id: &str, next: &str, index: u32) -> Connection {
    let segment =
        |name: &str| PathSegment { name: name.into(), id: format!("{name}-{id}"), ..Default::default() };
    let path = Path { index, path_segments: ["nsc", "nsmgr", "forwarder"].map(segment).into() };
    Connection {
        id: path.path_segments[index as usize].id.clone(),
        network_service_endpoint_name: "nse".into(),
        labels: [("next".to_owned(), next.to_owned())].into(),
        path: Some(path),
        ..Default::default()
    }
}

struct Stage {
    fake: Fake,
    monitor: Arc<Monitor>,
    chain: Chain,
}

impl Stage {
    fn new() -> Self {
        let fake = Fake::default();
        let monitor = Arc::new(Monitor::of_path("nsmgr", fake.clone()));
        let chain = Chain::new([Arc::new(monitor.clone()) as Arc<dyn Element>, Arc::new(ToNext)]);
        Self { fake, monitor, chain }
    }

    async fn request(&self, id: &str, next: &str) {
        let request = Request { connection: connection(id, next, 1), ..Default::default() };
        self.chain.start().request(&Cx::within(Duration::from_secs(1)), request).await.unwrap();
        settle().await;
    }

    async fn close(&self, id: &str, next: &str) {
        let request = Request { connection: connection(id, next, 1), ..Default::default() };
        self.chain.start().close(&Cx::within(Duration::from_secs(1)), request).await.unwrap();
        settle().await;
    }

    fn streams(&self, next: &str) -> usize {
        let opened = &self.fake.0.lock().opened;
        let of = opened.get(&format!("tcp://{next}"));
        of.map_or(0, |all| all.iter().filter(|sender| !sender.is_closed()).count())
    }

    /// The next process speaks on its newest stream.
    async fn says(&self, next: &str, kind: ConnectionEventType, connections: Vec<Connection>) {
        let connections = connections.into_iter().map(|c| (c.id.clone(), c)).collect();
        let event = ConnectionEvent { r#type: kind.into(), connections };
        let sender = self.fake.0.lock().opened[&format!("tcp://{next}")].last().unwrap().clone();
        sender.send(Ok(event)).await.unwrap();
        settle().await;
    }

    /// All streams end, and the process goes on.
    fn cuts(&self) {
        self.fake.0.lock().opened.clear();
    }

    /// The next process dies, and all its streams with it.
    fn dies(&self, refusal: Option<Kind>) {
        let mut state = self.fake.0.lock();
        state.opened.clear();
        (state.refusal, state.died) = (refusal, state.died + 1);
    }

    fn state(&self, id: &str) -> State {
        let id = format!("nsmgr-{id}");
        let all = self.monitor.connections();
        all.iter().find(|(connection, _)| connection.id == id).unwrap().0.state()
    }
}

async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

fn with(state: State, mut connection: Connection) -> Connection {
    connection.state = state.into();
    connection
}

const FIRST: ConnectionEventType = ConnectionEventType::InitialStateTransfer;
const UPDATE: ConnectionEventType = ConnectionEventType::Update;

#[tokio::test(start_paused = true)]
async fn a_thousand_connections_through_one_process_are_one_stream_and_it_goes_with_the_last() {
    let stage = Stage::new();
    for number in 0..1000 {
        stage.request(&number.to_string(), "a:1").await;
    }
    assert_eq!(stage.streams("a:1"), 1);
    stage.request("0", "b:1").await;
    assert_eq!(stage.streams("b:1"), 1);
    stage.close("0", "b:1").await;
    assert_eq!((stage.streams("a:1"), stage.streams("b:1")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_down_or_closed_further_along_is_down_here_and_up_again_when_it_is_there() {
    let stage = Stage::new();
    for id in ["x", "y"] {
        stage.request(id, "a:1").await;
    }
    let x = connection("x", "", 2);
    stage.says("a:1", FIRST, vec![x.clone(), connection("y", "", 2)]).await;
    stage.says("a:1", UPDATE, vec![with(State::Down, x.clone())]).await;
    assert_eq!((stage.state("x"), stage.state("y")), (State::Down, State::Up));
    stage.says("a:1", UPDATE, vec![x.clone()]).await;
    assert_eq!(stage.state("x"), State::Up);
    stage.says("a:1", ConnectionEventType::Delete, vec![x.clone()]).await;
    assert_eq!(stage.state("x"), State::Down);
    // A Request that succeeds says more than the process did.
    stage.request("x", "a:1").await;
    assert_eq!(stage.state("x"), State::Up);
    stage.says("a:1", UPDATE, vec![with(State::RefreshRequested, x)]).await;
    assert_eq!(stage.state("x"), State::RefreshRequested);
}

#[tokio::test(start_paused = true)]
async fn what_is_said_of_a_connection_before_it_moved_does_not_count() {
    let stage = Stage::new();
    stage.request("x", "a:1").await;
    let mut old = with(State::Down, connection("x", "", 2));
    old.network_service_endpoint_name = "an older one".into();
    stage.says("a:1", UPDATE, vec![old]).await;
    assert_eq!(stage.state("x"), State::Up);
    // A second connection keeps the stream, but this one goes another way now.
    stage.request("y", "a:1").await;
    stage.request("x", "b:1").await;
    stage.says("a:1", ConnectionEventType::Delete, vec![connection("x", "", 2)]).await;
    assert_eq!(stage.state("x"), State::Up);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_takes_its_connections_down_but_not_one_that_is_back_at_once() {
    let stage = Stage::new();
    for id in ["x", "y"] {
        stage.request(id, "a:1").await;
    }
    stage.says("a:1", FIRST, vec![connection("x", "", 2), connection("y", "", 2)]).await;
    // Back before anybody noticed, with one connection of two.
    stage.dies(None);
    tokio::time::sleep(RETRY.0 * 2).await;
    assert_eq!((stage.state("x"), stage.state("y")), (State::Up, State::Up));
    stage.says("a:1", FIRST, vec![connection("x", "", 2)]).await;
    assert_eq!((stage.state("x"), stage.state("y")), (State::Up, State::Down));
    stage.dies(Some(Kind::Unavailable));
    tokio::time::sleep(RETRY.0 / 2).await;
    assert_eq!(stage.state("x"), State::Up, "not yet");
    tokio::time::sleep(GRACE * 3).await;
    assert_eq!(stage.state("x"), State::Down);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_before_it_could_show_a_connection_takes_it_down_too() {
    let stage = Stage::new();
    stage.request("x", "a:1").await;
    stage.dies(Some(Kind::Unavailable));
    tokio::time::sleep(GRACE * 3).await;
    assert_eq!(stage.state("x"), State::Down);
    // While it is away another one gets an answer: it was there then, and has the same grace.
    tokio::time::sleep(RETRY.1 * 3).await;
    stage.request("y", "a:1").await;
    assert_eq!(stage.state("y"), State::Up);
    tokio::time::sleep(GRACE + RETRY.1).await;
    assert_eq!(stage.state("y"), State::Down);
}

#[tokio::test(start_paused = true)]
async fn what_a_process_showed_before_the_answer_came_counts_as_shown() {
    let stage = Stage::new();
    stage.request("x", "a:1").await;
    let (x, y) = (connection("x", "", 2), connection("y", "", 2));
    stage.says("a:1", FIRST, vec![x.clone()]).await;
    stage.says("a:1", UPDATE, vec![y]).await;
    stage.request("y", "a:1").await;
    stage.dies(None);
    tokio::time::sleep(RETRY.0 * 2).await;
    stage.says("a:1", FIRST, vec![x]).await;
    assert_eq!((stage.state("x"), stage.state("y")), (State::Up, State::Down));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_shows_nothing_takes_nothing_down() {
    let stage = Stage::new();
    stage.fake.0.lock().refusal = Some(Kind::Denied);
    stage.request("x", "a:1").await;
    tokio::time::sleep(HIDDEN * 3).await;
    assert_eq!(stage.state("x"), State::Up);
    // Nor does one that may be watched and hides this connection.
    stage.fake.0.lock().refusal = None;
    tokio::time::sleep(HIDDEN).await;
    stage.request("y", "a:1").await;
    stage.says("a:1", FIRST, vec![connection("x", "", 2)]).await;
    stage.cuts();
    tokio::time::sleep(RETRY.0 * 2).await;
    stage.says("a:1", FIRST, vec![connection("x", "", 2)]).await;
    assert_eq!((stage.state("x"), stage.state("y")), (State::Up, State::Up));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_started_anew_before_it_could_show_a_connection_takes_it_down_too() {
    let stage = Stage::new();
    stage.request("x", "a:1").await;
    stage.dies(None);
    stage.request("y", "a:1").await;
    tokio::time::sleep(RETRY.0 * 2).await;
    // One that was answered while the first event was on its way is not in it.
    stage.says("a:1", FIRST, vec![]).await;
    assert_eq!((stage.state("x"), stage.state("y")), (State::Down, State::Up));
}
