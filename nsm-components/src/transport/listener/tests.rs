//! Who is let in, and that those who are not keep nobody out.

use std::time::SystemTime;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, SanType};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::DropGuard;
use tonic::{Code, transport::Server};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{
    incoming::{HANDSHAKE_LIMIT, HANDSHAKES, ROOM},
    *,
};
use crate::{
    api::peer::Address,
    transport::{
        Channels, MAX_HEADER_LIST,
        testing::{Ca, controlled},
        tls,
    },
};

const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);

/// Longer than a handshake may take.
const DEADLINE: Duration = Duration::from_secs(15);

/// A leaf and its key: DER and PKCS#8 DER.
type Identity = Option<(Vec<u8>, Vec<u8>)>;

struct Served {
    folder: tempfile::TempDir,
    ca: Ca,
    source: Source,
    channels: Channels,
    _stop: DropGuard,
}

// === impl Served ===

impl Served {
    fn start() -> Self {
        let (folder, ca, stop) = (tempfile::tempdir().unwrap(), Ca::new(), CancellationToken::new());
        let (source, _) = controlled(ca.svid("spiffe://d/a", HOUR));
        let listener = Listener::bind(&Target::Unix(folder.path().join("a.sock"))).unwrap();
        let server = Server::builder().http2_max_header_list_size(MAX_HEADER_LIST);
        let router = { server }.add_service(tonic_health::server::health_reporter().1);
        tokio::spawn(listener.serve(router, source.clone(), stop.clone()));
        let channels = Channels::new(source.clone(), DEADLINE);
        Self { folder, ca, source, channels, _stop: stop.drop_guard() }
    }

    fn address(&self) -> Address {
        Address::Unix(self.folder.path().join("a.sock"))
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("a.sock")).await.unwrap()
    }

    /// Somebody of the mesh is served.
    async fn serves(&self) {
        let channel = self.channels.get(&self.address()).await.unwrap();
        HealthClient::new(channel.grpc).check(HealthCheckRequest::default()).await.unwrap();
    }

    /// Bytes that the server sends of itself to a client of this identity: none if it refuses it.
    async fn greeting(&self, identity: Identity, protocols: &[&[u8]]) -> usize {
        let Some(mut stream) = self.tls(identity, protocols).await else { return 0 };
        timeout(DEADLINE, stream.read(&mut [0; 64])).await.unwrap().unwrap_or(0)
    }

    /// A connection that is up as its client sees it.
    async fn tls(&self, identity: Identity, protocols: &[&[u8]]) -> Option<TlsStream<UnixStream>> {
        let builder = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible));
        let mut config = match identity {
            Some((leaf, key)) => {
                let key = PrivatePkcs8KeyDer::from(key).into();
                builder.with_client_auth_cert(vec![CertificateDer::from(leaf)], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        // With TLS 1.3 the client is done before the server has looked at its certificate.
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, self.connect().await);
        timeout(DEADLINE, connecting).await.unwrap().ok()
    }
}

/// Believes every server: it is the server that is to refuse.
#[derive(Debug)]
struct Gullible;

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
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn only_a_valid_svid_of_the_trust_domain_is_let_in() {
    let served = Served::start();
    let now = SystemTime::now();
    let between = |id: &str, from, until| Some(served.ca.leaf_between(id, from, until));
    let good = || between("spiffe://d/b", now - MINUTE, now + HOUR);
    assert!(served.greeting(good(), &[b"h2"]).await > 0);

    let foreign = Ca::new().leaf_between("spiffe://d/b", now - MINUTE, now + HOUR);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let refused = [
        ("nobody", None),
        ("a foreign CA's", Some(foreign)),
        ("another trust domain's by our CA", between("spiffe://other/b", now - MINUTE, now + HOUR)),
        ("a domain's whose name only begins like ours", between("spiffe://d.x/b", now - MINUTE, now + HOUR)),
        ("an expired one", between("spiffe://d/b", now - HOUR, now - MINUTE)),
        ("one that is not valid yet", between("spiffe://d/b", now + MINUTE, now + HOUR)),
        ("one without a SPIFFE ID", between("https://d/b", now - MINUTE, now + HOUR)),
        ("one that no token can be checked by", Some(served.ca.leaf_for(&key, &["spiffe://d/b"]))),
        ("one with two names", {
            let key = KeyPair::generate().unwrap();
            Some(served.ca.leaf_for(&key, &["spiffe://d/b", "spiffe://d/a"]))
        }),
        ("a self-signed one", {
            let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
            params.subject_alt_names = vec![SanType::URI("spiffe://d/b".try_into().unwrap())];
            Some((params.self_signed(&key).unwrap().der().to_vec(), key.serialize_der()))
        }),
    ];
    for (what, identity) in refused {
        assert_eq!(served.greeting(identity, &[b"h2"]).await, 0, "{what}");
    }
    for protocols in [&[][..], &[&b"http/1.1"[..]]] {
        assert_eq!(served.greeting(good(), protocols).await, 0, "ALPN {protocols:?}");
    }
    served.serves().await;
}

/// A ClientHello of TLS 1.1 (RFC 4346 §7.4.1.2) with a cipher suite of its time.
fn tls_1_1() -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x09, 1, 0]);
    let mut message = vec![1, 0, 0, u8::try_from(hello.len()).unwrap()];
    message.extend(hello);
    let mut record = vec![22, 3, 1, 0, u8::try_from(message.len()).unwrap()];
    record.extend(message);
    record
}

#[tokio::test]
async fn whoever_does_not_speak_tls_is_cut() {
    let served = Served::start();
    let all = [
        ("text", b"GET / HTTP/1.1\r\nHost: nsmgr\r\n\r\n".to_vec()),
        ("HTTP/2 without TLS", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("zeroes", vec![0; 100_000]),
        ("ones", vec![0xff; 100_000]),
        ("TLS 1.1", tls_1_1()),
        ("a record that never ends", vec![22, 3, 1, 0x40, 0]),
        ("nothing", Vec::new()),
    ];
    for (what, bytes) in all {
        let mut stream = served.connect().await;
        let began = Instant::now();
        // What was refused half way is not read to its end.
        let _ = stream.write_all(&bytes).await;
        let mut answer = Vec::new();
        let ended = timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{what} is cut");
        assert!(began.elapsed() < HANDSHAKE_LIMIT + Duration::from_secs(3), "{what}: {:?}", began.elapsed());
        assert!(answer.len() < 100, "{what}: at most an alert");
    }
    served.serves().await;
}

#[tokio::test]
async fn those_who_only_connect_keep_nobody_out_and_are_cut() {
    let served = Served::start();
    let mut silent = Vec::new();
    // More than there is room for: the last ones wait outside.
    for _ in 0..ROOM + HANDSHAKES {
        silent.push(served.connect().await);
    }
    // In less than the time that one of them could hold a place.
    timeout(HANDSHAKE_LIMIT / 2, served.serves()).await.unwrap();
    for mut stream in silent {
        assert_eq!(timeout(DEADLINE, stream.read(&mut [0; 1])).await.unwrap().unwrap_or(0), 0);
    }
}

#[tokio::test]
async fn many_more_than_may_shake_hands_at_once_come_together_and_all_get_in() {
    let served = Served::start();
    let ask = |_| async {
        let channels = Channels::new(served.source.clone(), DEADLINE);
        let channel = channels.get(&served.address()).await.unwrap();
        HealthClient::new(channel.grpc.clone()).check(HealthCheckRequest::default()).await.unwrap();
        (channels, channel)
    };
    let all = futures::future::join_all((0..3 * HANDSHAKES).map(ask)).await;
    assert_eq!(all.len(), 3 * HANDSHAKES);
}

#[tokio::test]
async fn a_connection_ends_with_the_leaf_that_it_began_with() {
    let served = Served::start();
    let now = SystemTime::now();
    let ends = now + Duration::from_secs(2);
    let mut stream =
        served.tls(Some(served.ca.leaf_between("spiffe://d/b", now - MINUTE, ends)), &[b"h2"]).await.unwrap();
    let read = timeout(DEADLINE, stream.read_to_end(&mut Vec::new())).await;
    assert!(read.is_ok(), "still open {DEADLINE:?} later");
    // Certificates and the clock of connections count whole seconds.
    assert!(SystemTime::now() + Duration::from_secs(1) >= ends, "it ended before its leaf");
    served.serves().await;
}

#[tokio::test]
async fn headers_beyond_the_bound_are_refused_and_the_next_call_is_served() {
    let served = Served::start();
    let channel = served.channels.get(&served.address()).await.unwrap();
    let ask = async |bytes: usize| {
        let mut call = tonic::Request::new(HealthCheckRequest::default());
        for index in 0..bytes / 1000 {
            let name: tonic::metadata::MetadataKey<_> = format!("x-{index}").parse().unwrap();
            call.metadata_mut().insert(name, "v".repeat(1000).parse().unwrap());
        }
        timeout(DEADLINE, HealthClient::new(channel.grpc.clone()).check(call)).await.unwrap()
    };
    // A path of many hops is fine.
    ask(64 << 10).await.unwrap();
    let refused = ask(2 << 20).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    served.serves().await;
}
