//! The Workload API of `nsm identity standalone` as a program of the same host sees it.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, jwk::JwkSet};
use nsm_components::{
    api::workload::{
        JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest,
        X509svid, X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
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
        Self::start_with(|settings| settings.svid_lifetime = svid_lifetime)
    }

    fn start_with(change: impl FnOnce(&mut IdentityStandalone)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = IdentityStandalone {
            listen_on: Target::Unix(folder.path().join("run/agent.sock")),
            trust_domain: "host.nsm".into(),
            svid_lifetime: Duration::from_hours(1),
            ca_lifetime: Duration::from_hours(1000),
            id_template: "/host/uid/{uid}/{program}".into(),
            base_dir: folder.path().join("lib"),
        };
        change(&mut settings);
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

/// Certificates laid end to end.
fn certificates(mut der: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while !der.is_empty() {
        let (rest, _) = x509_parser::parse_x509_certificate(der).unwrap();
        all.push(der[..der.len() - rest.len()].to_vec());
        der = rest;
    }
    all
}

/// As rustls verifies the chain of a peer.
fn verify(svid: &X509svid, bundle: &[u8]) {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let leaf = CertificateDer::from(svid.x509_svid.clone());
    let mut roots = rustls::RootCertStore::empty();
    for root in certificates(bundle) {
        roots.add(CertificateDer::from(root)).unwrap();
    }
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
    let refused = client.fetch_jwtsvid(JwtsvidRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = client.fetch_jwt_bundles(JwtBundlesRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = client.validate_jwtsvid(ValidateJwtsvidRequest::default()).await.unwrap_err();
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

/// This program's ID under the default template.
fn own_id() -> String {
    let program = std::env::current_exe().unwrap();
    let program = program.file_name().unwrap().to_str().unwrap().to_owned();
    format!("spiffe://host.nsm/host/uid/{}/{program}", nix::unistd::geteuid())
}

fn token_request(audience: &[&str], id: &str) -> Request<JwtsvidRequest> {
    let audience = audience.iter().map(|name| (*name).to_owned()).collect();
    with_header(JwtsvidRequest { audience, spiffe_id: id.into() })
}

async fn next_keys(stream: &mut Streaming<JwtBundlesResponse>) -> JwkSet {
    let bundles = timeout(DEADLINE, stream.message()).await.unwrap().unwrap().unwrap().bundles;
    let [(domain, jwks)] = &bundles.into_iter().collect::<Vec<_>>()[..] else { panic!("one domain") };
    assert_eq!(domain, "spiffe://host.nsm");
    serde_json::from_slice(jwks).unwrap()
}

#[tokio::test]
async fn a_token_is_given_out_and_everybody_can_look_into_it() {
    let host = Host::start(Duration::from_hours(1));
    let mut client = host.client().await;
    let got = client.fetch_jwtsvid(token_request(&["a", "b"], "")).await.unwrap().into_inner();
    let [svid] = &got.svids[..] else { panic!("{} SVIDs", got.svids.len()) };
    assert_eq!(svid.spiffe_id, own_id());

    let ask = |audience: &str, svid: &str| {
        with_header(ValidateJwtsvidRequest { audience: audience.into(), svid: svid.into() })
    };
    let valid = client.validate_jwtsvid(ask("b", &svid.svid)).await.unwrap().into_inner();
    assert_eq!(valid.spiffe_id, own_id());
    assert_eq!(
        valid.claims.unwrap().fields["sub"].kind,
        Some(prost_types::value::Kind::StringValue(own_id()))
    );
    for (audience, token) in [("c", svid.svid.as_str()), ("a", "no.token.x"), ("", &svid.svid)] {
        let refused = client.validate_jwtsvid(ask(audience, token)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }

    // Whoever has the bundle needs no Workload API to look into it.
    let bundles = client.fetch_jwt_bundles(with_header(JwtBundlesRequest {})).await.unwrap();
    let keys = next_keys(&mut bundles.into_inner()).await;
    let kid = jsonwebtoken::decode_header(&svid.svid).unwrap().kid.unwrap();
    let key = DecodingKey::from_jwk(keys.find(&kid).unwrap()).unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&["a"]);
    jsonwebtoken::decode::<serde_json::Value>(&svid.svid, &key, &validation).unwrap();
}

#[tokio::test]
async fn a_token_has_an_audience_and_is_of_the_caller_alone() {
    let host = Host::start(Duration::from_hours(1));
    let mut client = host.client().await;
    for (audience, id, code) in [
        (&[][..], "", Code::InvalidArgument),
        (&["a", ""], "", Code::InvalidArgument),
        (&["a"; 65], "", Code::InvalidArgument),
        (&["a"], "spiffe://host.nsm/host/uid/0/another", Code::PermissionDenied),
    ] {
        let refused = client.fetch_jwtsvid(token_request(audience, id)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
    }
    client.fetch_jwtsvid(token_request(&["a"], &own_id())).await.unwrap();
}

#[tokio::test]
async fn a_ca_changes_over_on_open_streams_and_every_peer_goes_on_knowing_every_other() {
    let mut host = Host::start(Duration::from_secs(4));
    let (mut stream, mut client) = (host.svids().await, host.client().await);
    let keys = client.fetch_jwt_bundles(with_header(JwtBundlesRequest {})).await.unwrap();
    let mut keys = keys.into_inner();
    let old_keys = next_keys(&mut keys).await;
    let old = next(&mut stream).await;
    let rotation = identity::rotate(&host.settings).await.unwrap();
    assert_eq!(identity::rotate(&host.settings).await.unwrap(), rotation, "one at a time");
    assert_eq!(next_keys(&mut keys).await.keys.len(), 2);

    // Each message's leaf is known by the bundle of each message whose leaf is still valid.
    let (mut seen, mut restarted) = (vec![old.clone()], false);
    let last = loop {
        let message = next(&mut stream).await;
        verify(&message, &message.bundle);
        for before in seen.iter().filter(|before| is_valid(before)) {
            verify(before, &message.bundle);
            verify(&message, &before.bundle);
        }
        seen.push(message.clone());
        if !restarted {
            // In the middle of it the process is started anew, and goes on.
            restarted = true;
            host.restart().await;
            stream = host.svids().await;
        }
        let all = certificates(&message.bundle);
        if all.len() == 1 && all != certificates(&old.bundle) {
            break message;
        }
    };
    assert!(std::time::SystemTime::now() >= rotation.old_ends);
    assert!(seen.iter().any(|message| certificates(&message.bundle).len() == 2));
    assert_eq!(last.spiffe_id, old.spiffe_id);
    let keys = host.client().await.fetch_jwt_bundles(with_header(JwtBundlesRequest {})).await.unwrap();
    let new_keys = next_keys(&mut keys.into_inner()).await;
    assert_eq!(new_keys.keys.len(), 1);
    assert_ne!(new_keys, old_keys);
}

fn is_valid(svid: &X509svid) -> bool {
    let (_, leaf) = x509_parser::parse_x509_certificate(&svid.x509_svid).unwrap();
    leaf.validity().is_valid()
}

#[tokio::test]
async fn a_ca_changes_over_by_itself_before_its_life_is_over() {
    let host = Host::start_with(|settings| {
        settings.svid_lifetime = Duration::from_secs(3);
        settings.ca_lifetime = Duration::from_secs(24);
    });
    let mut stream = host.svids().await;
    let old = next(&mut stream).await;
    loop {
        let message = next(&mut stream).await;
        verify(&message, &message.bundle);
        // The successor is made ready while the old one signs.
        if certificates(&message.bundle).len() == 2 {
            verify(&message, &old.bundle);
            break;
        }
    }
}

#[tokio::test]
async fn a_template_of_the_settings_names_the_programs() {
    let host = Host::start_with(|settings| settings.id_template = "/g-{gid}/u-{uid}/{path}".into());
    let svid = next(&mut host.svids().await).await;
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let path = std::env::current_exe().unwrap();
    assert_eq!(svid.spiffe_id, format!("spiffe://host.nsm/g-{gid}/u-{uid}{}", path.display()));
}
