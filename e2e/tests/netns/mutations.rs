//! Messages that no well-behaved process sends: each is answered in time, nothing panics, and
//! nothing is left of them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use nsm_components::{
    api::{
        Connection, Mechanism, Path, PathSegment,
        connectioncontext::{ConnectionContext, IpContext, Route},
        mechanism::{INODE_URL, NAME},
        networkservice::NetworkServiceRequest,
        registry::{
            NetworkService, NetworkServiceEndpoint, NetworkServiceEndpointQuery, NetworkServiceLabels,
        },
    },
    transport::{CLIENT_TOKEN, Channel, Token},
};
use nsm_e2e::{
    figures::figures,
    mesh::{Mesh, START, Signal, Who},
    wait::{may_run, until_true},
};
use proptest::{
    collection::{hash_map, vec},
    option,
    prelude::*,
    sample::{Index, select},
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use prost::{
    Message,
    bytes::{Buf, BufMut},
};
use tonic::{
    Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataValue,
};

use crate::{openfiles::OpenFiles, rogue::TRUSTED, story::LIFE, stranger::Stranger};

/// Messages that each kind of caller sends, and how many of them at once.
const CASES: (usize, usize) = (5_000, 32);

/// Time that each says it has, and the time after which it counts as hung.
const LIMITS: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(10));

/// Channels that invented services may need, of an nsmgr and of its forwarder: each service has two watches
/// while it is in the index, 512 are on a channel, and one that nobody uses is kept for 10 minutes.
const LANES: usize = 2 * (CASES.0 * 2 / 512 + 1);

/// Files by which a process may keep one endpoint's socket: of a registration and of its refresh, in two tables.
const PASSED_ON: usize = 4;

/// All methods of an nsmgr, but for watches.
const METHODS: [&str; 6] = [
    "/networkservice.NetworkService/Request",
    "/networkservice.NetworkService/Close",
    "/registry.NetworkServiceRegistry/Register",
    "/registry.NetworkServiceEndpointRegistry/Register",
    "/registry.NetworkServiceEndpointRegistry/Unregister",
    "/registry.NetworkServiceEndpointRegistry/Find",
];

/// Bytes as they are, so that messages may be broken ones.
#[derive(Clone, Debug, Default)]
struct Raw;

/// A call to make.
#[derive(Clone, Debug)]
struct Case {
    method: &'static str,
    message: Vec<u8>,
    /// The caller's own token; another text; none.
    token: Option<String>,
    /// `path` metadata, of registrations.
    path: Option<String>,
    /// After this time the caller gives up, whatever has become of the call.
    gives_up: Option<Duration>,
}

// === impl Raw ===

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; from.remaining()];
        from.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}

/// Texts that mean something somewhere, and some that mean nothing.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        select(vec![
            "",
            "stranger",
            "strange",
            "nsmgr-1",
            "forwarder-1",
            "nse-1",
            "finance",
            "forwarder",
            "nsm-1",
            "lo",
            "LOCAL",
            "REMOTE",
            "KERNEL",
            "VXLAN",
            "../../etc",
            "inode://4/1",
            "inode://18446744073709551615/0",
            "inode://x/y",
            "file:///proc/self/ns/net",
            "unix:///run/x.sock",
            "tcp://10.77.0.1:5001",
            "10.0.0.1/32",
            "10.0.0.1/99",
            "::/0",
            "not an address",
            "{{ .podName }}",
            "{{ index . ",
            "a@b@c",
        ])
        .prop_map(str::to_owned),
        ".{0,40}",
        (1..3000usize).prop_map(|length| "x".repeat(length)),
    ]
}

fn map() -> impl Strategy<Value = std::collections::HashMap<String, String>> {
    hash_map(text(), text(), 0..4)
}

fn mechanism() -> impl Strategy<Value = Mechanism> {
    (text(), text(), text(), text(), map()).prop_map(|(cls, r#type, url, name, parameters)| {
        let mut mechanism = Mechanism { cls, r#type, parameters: parameters.into_iter().collect() };
        mechanism.set(INODE_URL, url);
        mechanism.set(NAME, name);
        mechanism
    })
}

/// `TOKEN` stands for the caller's own.
fn segment() -> impl Strategy<Value = PathSegment> {
    let token = prop_oneof![3 => Just("TOKEN".to_owned()), 1 => text()];
    (text(), text(), token, option::of(any::<(i64, i32)>())).prop_map(|(name, id, token, expires)| {
        PathSegment {
            name,
            id,
            token,
            expires: expires.map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos }),
            ..PathSegment::default()
        }
    })
}

fn context() -> impl Strategy<Value = ConnectionContext> {
    let route = (text(), text()).prop_map(|(prefix, next_hop)| Route { prefix, next_hop });
    (vec(text(), 0..3), vec(text(), 0..3), vec(route, 0..3), vec(text(), 0..3), any::<u32>()).prop_map(
        |(src, dst, routes, excluded, mtu)| ConnectionContext {
            ip_context: Some(IpContext {
                src_ip_addrs: src,
                dst_ip_addrs: dst,
                src_routes: routes,
                excluded_prefixes: excluded,
                ..IpContext::default()
            }),
            mtu,
            ..ConnectionContext::default()
        },
    )
}

fn connection() -> impl Strategy<Value = Connection> {
    // Half of them by the book as far as their path goes, or authorization would stop them all.
    let book = Just((
        "strange".to_owned(),
        Some(Path {
            index: 0,
            path_segments: vec![PathSegment {
                name: "stranger".into(),
                id: "strange".into(),
                token: "TOKEN".into(),
                ..PathSegment::default()
            }],
        }),
    ));
    let index = prop_oneof![0..4u32, Just(u32::MAX)];
    let path = (index, vec(segment(), 0..6)).prop_map(|(index, path_segments)| Path { index, path_segments });
    let who = prop_oneof![book, (text(), option::of(path))];
    (who, text(), option::of(mechanism()), option::of(context()), map(), text(), text(), 0..5i32).prop_map(
        |((id, path), network_service, mechanism, context, labels, endpoint, payload, state)| Connection {
            id,
            path,
            network_service,
            mechanism,
            context,
            labels: labels.into_iter().collect(),
            network_service_endpoint_name: endpoint,
            payload,
            state,
        },
    )
}

fn endpoint() -> impl Strategy<Value = NetworkServiceEndpoint> {
    (text(), vec(text(), 0..3), map(), text(), vec(text(), 0..3), option::of(any::<(i64, i32)>())).prop_map(
        |(name, services, labels, url, path_ids, expires)| NetworkServiceEndpoint {
            name,
            network_service_labels: services
                .iter()
                .map(|service| {
                    (service.clone(), NetworkServiceLabels { labels: labels.clone().into_iter().collect() })
                })
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .collect(),
            network_service_names: services,
            url,
            path_ids,
            expiration_time: expires.map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos }),
            ..NetworkServiceEndpoint::default()
        },
    )
}

fn service() -> impl Strategy<Value = NetworkService> {
    (text(), text(), vec(text(), 0..3)).prop_map(|(name, payload, path_ids)| NetworkService {
        name,
        payload,
        path_ids,
        ..Default::default()
    })
}

/// A method with a message that is its own.
fn call() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    prop_oneof![
        4 => (connection(), vec(mechanism(), 0..3)).prop_map(|(connection, preferences)| {
            let message =
                NetworkServiceRequest { connection: Some(connection), mechanism_preferences: preferences };
            (METHODS[0], message.encode_to_vec())
        }),
        1 => connection().prop_map(|message| (METHODS[1], message.encode_to_vec())),
        1 => service().prop_map(|message| (METHODS[2], message.encode_to_vec())),
        2 => endpoint().prop_map(|message| (METHODS[3], message.encode_to_vec())),
        1 => endpoint().prop_map(|message| (METHODS[4], message.encode_to_vec())),
        1 => endpoint().prop_map(|like| {
            let query = NetworkServiceEndpointQuery { network_service_endpoint: Some(like), watch: false };
            (METHODS[5], query.encode_to_vec())
        }),
    ]
}

/// Bytes changed, cut off or added.
fn damage() -> impl Strategy<Value = Vec<(Index, u8, u8)>> {
    prop_oneof![3 => Just(Vec::new()), 1 => vec((any::<Index>(), any::<u8>(), 0..3u8), 1..6)]
}

fn damaged(mut message: Vec<u8>, damage: Vec<(Index, u8, u8)>) -> Vec<u8> {
    for (at, byte, how) in damage {
        if message.is_empty() {
            break;
        }
        let at = at.index(message.len());
        match how {
            0 => message[at] = byte,
            1 => message.truncate(at),
            _ => message.insert(at, byte),
        }
    }
    message
}

fn registry_path() -> impl Strategy<Value = Option<String>> {
    let printable = "[ -~]{0,60}";
    prop_oneof![
        Just(None),
        Just(Some(r#"{"Index":0,"PathSegments":null}"#.to_owned())),
        Just(Some(r#"{"Index":0,"PathSegments":[{"token":"TOKEN"}]}"#.to_owned())),
        Just(Some(r#"{"Index":4294967295,"PathSegments":[{"token":"TOKEN"}]}"#.to_owned())),
        Just(Some(r#"{"Index":-1,"PathSegments":[null]}"#.to_owned())),
        Just(Some("[".repeat(5000))),
        printable.prop_map(Some),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let token =
        prop_oneof![6 => Just(Some("TOKEN".to_owned())), 1 => Just(None), 1 => "[!-~]{0,60}".prop_map(Some)];
    // From before a process has seen all of it to after its answer.
    let gives_up = prop_oneof![3 => Just(None), 1 => (0..30_000u64).prop_map(|micros| Some(Duration::from_micros(micros)))];
    (call(), damage(), token, registry_path(), gives_up).prop_map(
        |((method, message), damage, token, path, gives_up)| Case {
            method,
            message: damaged(message, damage),
            token,
            path,
            gives_up,
        },
    )
}

/// What became of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Well,
    Refused,
    GivenUp,
}

/// Makes the call.
async fn send(channel: Channel, case: Case, own: &Token) -> Outcome {
    let mut call = Request::new(case.message);
    let fill = |text: String| text.replace("TOKEN", &own.text);
    own.write(call.metadata_mut());
    call.metadata_mut().remove(CLIENT_TOKEN);
    if let Some(token) = case.token.map(fill).and_then(|text| MetadataValue::try_from(text).ok()) {
        call.metadata_mut().insert(CLIENT_TOKEN, token);
    }
    if let Some(path) = case.path.map(fill).and_then(|text| MetadataValue::try_from(text).ok()) {
        call.metadata_mut().insert("path", path);
    }
    call.set_timeout(LIMITS.0);
    let mut grpc = tonic::client::Grpc::new(channel.grpc);
    let answer = async {
        grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let method = tonic::codegen::http::uri::PathAndQuery::from_static(case.method);
        let answer = grpc.server_streaming(call, method, Raw).await?;
        let mut messages = answer.into_inner();
        while messages.message().await?.is_some() {}
        Ok::<_, Status>(())
    };
    let answer = match tokio::time::timeout(case.gives_up.unwrap_or(LIMITS.1), answer).await {
        Ok(answer) => answer,
        Err(_) if case.gives_up.is_some() => return Outcome::GivenUp,
        Err(late) => panic!("{} was not answered: {late}", case.method),
    };
    let broken = answer.as_ref().err().filter(|status| status.message().contains("transport"));
    assert!(broken.is_none(), "{}: {broken:?}", case.method);
    if answer.is_ok() { Outcome::Well } else { Outcome::Refused }
}

/// The same cases each time, so that a failure can be looked for; others by another `NSM_SEED`.
fn cases(number: u8) -> Vec<Case> {
    let given: u64 = std::env::var("NSM_SEED").map_or(7, |seed| seed.parse().unwrap());
    let mut seed = [number; 32];
    seed[..8].copy_from_slice(&given.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..CASES.0).map(|_| case().new_tree(&mut runner).unwrap().current()).collect()
}

/// Sends them all, and looks for what is left of them.
async fn mutate(mut mesh: Mesh, cases: Vec<Case>) {
    let endpoint = mesh.endpoint(1, "finance", &[]).unwrap();
    // What is opened at the first use is open.
    let client = mesh.client(1, "kernel://finance/nsm-1").unwrap();
    mesh.connected(client, "nsm-1").unwrap();
    mesh.end(&[client], Signal::SIGTERM).unwrap();
    mesh.is_clean(START).unwrap();
    let whom = [Who::Registry, Who::Nsmgr(1), Who::Nsmgr(2), Who::Forwarder(1), Who::Forwarder(2), endpoint];
    let before = OpenFiles::settled(&mesh, &whom);
    let stranger = Stranger::of(&mesh);
    let channel = stranger.channel(&mesh.nsmgr_socket(1)).await;
    let begin = Instant::now();
    let sent = stream::iter(cases).map(|case| {
        let channel = channel.clone();
        async move {
            let own = channel.token(LIFE).unwrap();
            send(channel, case, &own).await
        }
    });
    let outcomes: Vec<Outcome> = sent.buffer_unordered(CASES.1).collect().await;
    // Most are refused; were all of them, they would have tried little.
    for outcome in [Outcome::Well, Outcome::Refused, Outcome::GivenUp] {
        let count = outcomes.iter().filter(|one| **one == outcome).count();
        assert!(count > CASES.0 / 100, "{count} in {:?}", begin.elapsed());
    }
    drop((channel, stranger));
    mesh.is_clean(LIFE * 2).unwrap();
    // A channel that was given up because an answer was late stands as long as there are watches on it.
    mesh.end(&[Who::Registry], Signal::SIGKILL).unwrap();
    mesh.start_again(&[Who::Registry]).unwrap();
    let is_back = || figures(&mesh.metrics_socket(Who::Registry)).is_ok();
    until_true("the registry is back", START, is_back).unwrap();
    let mut now = before.clone();
    let sockets: Vec<_> = before.passed_on.keys().map(|(_, path)| path.clone()).collect();
    until_true("no file is open but those of before, and channels", START, || {
        now = OpenFiles::now(&mesh, &whom);
        let known =
            |((_, path), count): (&(String, String), &usize)| sockets.contains(path) && *count <= PASSED_ON;
        (&now.own, now.others) == (&before.own, before.others)
            && now.channels <= before.channels + LANES
            && now.passed_on.iter().all(known)
    })
    .unwrap_or_else(|error| panic!("{error}: {now:#?} after {before:#?}"));
    for who in whom {
        let log = mesh.process(who).unwrap().log();
        assert!(!log.contains("panicked"), "{who} panicked: {log}");
    }
    let client = mesh.client(1, "kernel://finance/nsm-1").unwrap();
    mesh.connected(client, "nsm-1").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_messages_that_no_process_of_the_mesh_should_send_are_answered_and_leave_nothing() {
    if !may_run() {
        return;
    }
    mutate(Mesh::start(LIFE).unwrap(), cases(7)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_messages_of_a_stranger_that_nobody_should_send_are_answered_and_leave_nothing() {
    if !may_run() {
        return;
    }
    mutate(Mesh::start_with(LIFE, &[("NSM_TRUSTED_IDS", TRUSTED)]).unwrap(), cases(8)).await;
}
