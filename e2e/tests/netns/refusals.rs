//! Who cannot show who it is gets nothing and leaves nothing.

use std::{sync::Arc, time::Duration};

use nsm_components::{
    api::workload::{X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient},
    transport::Channel,
};
use nsm_e2e::{
    mesh::{Mesh, START},
    netns::Netns,
    wait::{may_run, until_true},
};
use rcgen::{CertificateParams, KeyPair, SanType};
use tokio::{io::AsyncReadExt, net::UnixStream};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, aws_lc_rs},
        pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    },
};
use tonic::{Code, transport::Endpoint};

use crate::{story::LIFE, stranger::Stranger};

/// A stranger in a new mesh with an endpoint on node 2: a pod of its own on node 1, and its channel to the nsmgr
/// there.
pub(crate) async fn beside_an_endpoint() -> (Mesh, Netns, Stranger, Channel) {
    let mut mesh = Mesh::start(LIFE).unwrap();
    mesh.endpoint(2, "finance", &[]).unwrap();
    let pod = mesh.empty_pod(1).unwrap();
    let pod = mesh.pod_of(pod).unwrap().clone();
    let stranger = Stranger::of(&mesh);
    let nsmgr = stranger.channel(&mesh.nsmgr_socket(1)).await;
    (mesh, pod, stranger, nsmgr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_a_valid_token_is_denied_and_leaves_nothing() {
    if !may_run() {
        return;
    }
    let (mesh, pod, stranger, nsmgr) = beside_an_endpoint().await;
    let pod = &pod;
    let forwarder = stranger.channel(&mesh.forwarder_socket(1)).await;
    let good = || nsmgr.token(LIFE).unwrap();

    // By the book it works, over two nodes and on one.
    let mut connection = Err(tonic::Status::unknown("not asked"));
    for _ in 0..100 {
        connection = stranger.ask(&nsmgr, pod, Some(&good())).await;
        if connection.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let connection = connection.unwrap();
    assert_eq!(connection.path.as_ref().unwrap().path_segments.len(), 6);
    stranger.close(&nsmgr, connection, pod).await.unwrap();
    assert_eq!(mesh.traces().unwrap(), Vec::<String>::new());
    let near = stranger.channel(&mesh.nsmgr_socket(2)).await;
    let connection = stranger.ask(&near, pod, Some(&near.token(LIFE).unwrap())).await.unwrap();
    assert_eq!(connection.path.as_ref().unwrap().path_segments.len(), 4);
    stranger.close(&near, connection, pod).await.unwrap();
    assert_eq!(mesh.traces().unwrap(), Vec::<String>::new());

    let expired = nsmgr.token(Duration::from_secs(1)).unwrap();
    let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    until_true("a token ends", START, || now() > u64::try_from(expired.expires).unwrap()).unwrap();
    let tokens = [
        ("of a foreign key", Some(stranger.forged(&nsmgr)), "not signed by the peer"),
        ("for somebody else", Some(forwarder.token(LIFE).unwrap()), "is for spiffe://"),
        ("that expired", Some(expired), "expired"),
        ("that is missing", None, "not readable"),
    ];
    for (what, token, why) in tokens {
        let status = stranger.ask(&nsmgr, pod, token.as_ref()).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "a token {what}: {status:?}");
        assert!(status.message().contains(why), "a token {what}: {status:?}");
        assert_eq!(mesh.traces().unwrap(), Vec::<String>::new(), "a token {what}");
    }
}

/// Believes every server: it is the server that is to refuse.
#[derive(Debug)]
struct Gullible(Arc<CryptoProvider>);

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

type Identity = (CertificateDer<'static>, PrivatePkcs8KeyDer<'static>);

/// Bytes that the server sends of itself to a client of this identity: none if it refuses it.
async fn greeting(mesh: &Mesh, identity: Option<Identity>) -> usize {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.unwrap().dangerous().with_custom_certificate_verifier(Arc::new(Gullible(provider)));
    let mut config = match identity {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key.into()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = UnixStream::connect(mesh.nsmgr_socket(1)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    // With TLS 1.3 the client is done before the server has looked at its certificate.
    let Ok(mut stream) = TlsConnector::from(Arc::new(config)).connect(name, socket).await else { return 0 };
    stream.read(&mut [0; 64]).await.unwrap_or(0)
}

/// An identity of the mesh, straight from the Workload API.
async fn identity(mesh: &Mesh) -> Identity {
    let endpoint = Endpoint::from_shared(format!("unix://{}", mesh.workload_api().display())).unwrap();
    let mut request = tonic::Request::new(X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    let mut client = SpiffeWorkloadApiClient::new(endpoint.connect().await.unwrap());
    let answer: X509svidResponse =
        client.fetch_x509svid(request).await.unwrap().into_inner().message().await.unwrap().unwrap();
    let svid = answer.svids.into_iter().next().unwrap();
    (svid.x509_svid.into(), svid.x509_svid_key.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_certificate_is_of_a_foreign_ca_is_refused_at_the_handshake() {
    if !may_run() {
        return;
    }
    let mesh = Mesh::start(LIFE).unwrap();
    until_true("the nsmgr listens", START, || mesh.nsmgr_socket(1).exists()).unwrap();
    assert!(greeting(&mesh, Some(identity(&mesh).await)).await > 0, "one of the mesh is greeted");
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names.push(SanType::URI("spiffe://host.nsm/host/uid/0/nsc-1".try_into().unwrap()));
    let foreign = params.self_signed(&key).unwrap().der().clone();
    assert_eq!(greeting(&mesh, Some((foreign, key.serialize_der().into()))).await, 0);
    assert_eq!(greeting(&mesh, None).await, 0, "nobody at all is refused as well");
}
