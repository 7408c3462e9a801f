//! A path that does not hold is refused, with what is wrong about it, and leaves nothing.

use std::time::Duration;

use nsm_components::{
    api::{
        Connection, Path, PathSegment,
        networkservice::{NetworkServiceRequest, network_service_client::NetworkServiceClient},
    },
    transport::{Channel, Token},
};
use nsm_e2e::{mesh::Mesh, wait::may_run};
use tonic::{Code, Request, Status};

use crate::{story::LIFE, stranger::Stranger};

/// Longest time for a refusal.
const SOON: Duration = Duration::from_secs(5);

async fn ask(channel: &Channel, token: &Token, path: Option<Path>) -> Result<Connection, Status> {
    let connection = Connection {
        id: "stranger-id".into(),
        network_service: "finance".into(),
        path,
        ..Connection::default()
    };
    let message = NetworkServiceRequest { connection: Some(connection), ..Default::default() };
    let mut call = Request::new(message);
    token.write(call.metadata_mut());
    let mut client = NetworkServiceClient::new(channel.grpc.clone());
    let answer = tokio::time::timeout(SOON, client.request(call)).await.unwrap();
    answer.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_does_not_hold_is_refused_with_its_reason_and_leaves_nothing() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    mesh.endpoint(2, "finance", &[]).unwrap();
    let stranger = Stranger::of(&mesh);
    let nsmgr = stranger.channel(&mesh.nsmgr_socket(1)).await;
    let forwarder = stranger.channel(&mesh.forwarder_socket(1)).await;
    let (own, elsewhere) = (nsmgr.token(LIFE).unwrap(), forwarder.token(LIFE).unwrap());
    let segment = |name: &str, token: &str| PathSegment {
        name: name.into(),
        id: format!("{name}-id"),
        token: token.into(),
        ..PathSegment::default()
    };
    let path = |index, path_segments| Some(Path { index, path_segments });
    let mine = || segment("stranger", &own.text);
    let (denied, invalid) = (Code::PermissionDenied, Code::InvalidArgument);
    let cases = [
        ("no path", None, denied, "the path has no previous segment"),
        ("no segment", path(0, vec![]), denied, "the path has no previous segment"),
        ("an index beyond the end", path(7, vec![mine()]), invalid, "path index 7 is out of range"),
        (
            "an index beyond all",
            path(u32::MAX, vec![mine()]),
            invalid,
            "path index 4294967295 is out of range",
        ),
        (
            "another's id",
            path(0, vec![segment("x", &own.text)]),
            invalid,
            "is not the id \"x-id\" of segment 0",
        ),
        (
            "a segment before with a token for somebody else",
            path(1, vec![segment("victim", &elsewhere.text), mine()]),
            denied,
            "the token of segment 0",
        ),
        (
            "a segment before with a token that is none",
            path(1, vec![segment("victim", "a.b.c"), mine()]),
            denied,
            "the token of segment 0 does not hold",
        ),
    ];
    for (what, path, code, why) in cases {
        let status = ask(&nsmgr, &own, path).await.unwrap_err();
        assert_eq!(status.code(), code, "{what}: {status:?}");
        assert!(status.message().contains(why), "{what}: {status:?}");
        assert_eq!(mesh.traces().unwrap(), Vec::<String>::new(), "{what}");
    }
}
