//! The Workload API of `nsm identity standalone` as a program of the same host sees it.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use nsm_components::{
    api::workload::{
        X509BundlesRequest, X509svid, X509svidRequest, X509svidResponse,
        spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
    apps::identity,
    settings::{IdentityStandalone, Target},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::{net::UnixStream, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Streaming,
    transport::{Channel, Endpoint, Uri},
};

const DEADLINE: Duration = Duration::from_secs(20);

struct Host {
    _folder: tempfile::TempDir,
    settings: IdentityStandalone,
    stop: CancellationToken,
    process: JoinHandle<Result<(), identity::Error>>,
}

impl Host {
    fn start(svid_lifetime: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = IdentityStandalone {
            log_level: nsm_components::settings::LogLevel::default(),
            listen_on: Target::Unix(folder.path().join("run/agent.sock")),
            trust_domain: "host.nsm".into(),
            svid_lifetime,
            base_dir: folder.path().join("lib"),
        };
        let stop = CancellationToken::new();
        let process = tokio::spawn(identity::standalone::run(settings.clone(), stop.clone()));
        Self { _folder: folder, settings, stop, process }
    }

    async fn restart(&mut self) {
        self.stop.cancel();
        timeout(DEADLINE, &mut self.process).await.unwrap().unwrap().unwrap();
        self.stop = CancellationToken::new();
        self.process = tokio::spawn(identity::standalone::run(self.settings.clone(), self.stop.clone()));
    }

    fn socket(&self) -> PathBuf {
        let Target::Unix(path) = &self.settings.listen_on else { unreachable!() };
        path.clone()
    }

    /// A client, as soon as the socket answers.
    async fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let path = self.socket();
            let connector = tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            match Endpoint::from_static("http://localhost").connect_with_connector(connector).await {
                Ok(channel) => return SpiffeWorkloadApiClient::new(channel),
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error:?}"),
            }
            tokio::task::yield_now().await;
        }
    }

    async fn svids(&self) -> Streaming<X509svidResponse> {
        let request = with_header(X509svidRequest {});
        self.client().await.fetch_x509svid(request).await.unwrap().into_inner()
    }
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

async fn next(stream: &mut Streaming<X509svidResponse>) -> X509svid {
    let response = timeout(DEADLINE, stream.message()).await.unwrap().unwrap().unwrap();
    assert!(response.crl.is_empty() && response.federated_bundles.is_empty());
    let [svid] = &response.svids[..] else { panic!("{} SVIDs", response.svids.len()) };
    assert!(svid.hint.is_empty());
    svid.clone()
}

/// As rustls verifies the chain of a peer.
fn verify(svid: &X509svid, bundle: &[u8]) {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let leaf = CertificateDer::from(svid.x509_svid.clone());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(bundle.to_vec())).unwrap();
    rustls::client::verify_server_cert_signed_by_trust_anchor(
        &rustls::server::ParsedCertificate::try_from(&leaf).unwrap(),
        &roots,
        &[],
        UnixTime::now(),
        provider.signature_verification_algorithms.all,
    )
    .unwrap();
    // The key is PKCS#8 and belongs to the leaf.
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(svid.x509_svid_key.clone());
    rustls::sign::CertifiedKey::from_der(vec![leaf], key.into(), &provider).unwrap();
}

#[tokio::test]
async fn a_program_gets_an_svid_of_its_user_and_name() {
    let host = Host::start(Duration::from_hours(1));
    let svid = next(&mut host.svids().await).await;
    let program = std::env::current_exe().unwrap();
    let program = program.file_name().unwrap().to_str().unwrap();
    let uid = nix::unistd::geteuid();
    assert_eq!(svid.spiffe_id, format!("spiffe://host.nsm/host/uid/{uid}/{program}"));
    verify(&svid, &svid.bundle);

    let request = with_header(X509BundlesRequest {});
    let mut bundles = host.client().await.fetch_x509_bundles(request).await.unwrap().into_inner();
    let bundles = timeout(DEADLINE, bundles.message()).await.unwrap().unwrap().unwrap().bundles;
    assert_eq!(bundles.into_iter().collect::<Vec<_>>(), [("spiffe://host.nsm".to_owned(), svid.bundle)]);
}

#[tokio::test]
async fn a_new_svid_is_pushed_on_the_open_stream() {
    let host = Host::start(Duration::from_secs(3));
    let mut stream = host.svids().await;
    let (first, second) = (next(&mut stream).await, next(&mut stream).await);
    assert_eq!(first.spiffe_id, second.spiffe_id);
    assert_eq!(first.bundle, second.bundle);
    assert_ne!(first.x509_svid, second.x509_svid);
    assert_ne!(first.x509_svid_key, second.x509_svid_key);
    verify(&second, &first.bundle);
}

#[tokio::test]
async fn a_call_without_the_security_header_is_refused() {
    let host = Host::start(Duration::from_hours(1));
    let mut client = host.client().await;
    let refused = client.fetch_x509svid(X509svidRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = client.fetch_x509_bundles(X509BundlesRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_restart_ends_the_streams_and_keeps_the_root() {
    let mut host = Host::start(Duration::from_hours(1));
    let mut stream = host.svids().await;
    let before = next(&mut stream).await;
    host.restart().await;
    let ended = timeout(DEADLINE, stream.message()).await.unwrap();
    assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
    let after = next(&mut host.svids().await).await;
    assert_eq!(before.bundle, after.bundle);
    verify(&after, &before.bundle);
}
