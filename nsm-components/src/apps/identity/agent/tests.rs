mod cgroup;

use std::{net::SocketAddr, time::Duration};

use tokio::{net::TcpListener, task::JoinHandle};

use super::*;
use crate::{
    apps::identity::{
        authority,
        ca::StoredRoot,
        fake_api::FakeApi,
        id::TrustDomain,
        probe_agent,
        renewal::{Renewals, State},
    },
    settings::{IdentityAuthority, ObjectRef},
};

const DEADLINE: Duration = Duration::from_secs(20);

fn object(namespace: &str, name: &str) -> ObjectRef {
    ObjectRef { namespace: namespace.into(), name: name.into() }
}

fn start_authority(api: &FakeApi, listener: TcpListener) -> JoinHandle<Result<(), Error>> {
    let settings = IdentityAuthority {
        log_level: crate::settings::LogLevel::default(),
        listen_on: Target::Tcp(listener.local_addr().unwrap().to_string()),
        trust_domain: "k8s.nsm".into(),
        svid_lifetime: Duration::from_hours(1),
        root_secret: object("nsm-operator", "root"),
        bundle: object("nsm-system", "bundle"),
        agent_account: object("nsm-system", "nsm-identity-agent"),
    };
    tokio::spawn(authority::serve(settings, api.client(), listener, CancellationToken::new()))
}

struct Node {
    _folder: tempfile::TempDir,
    agent: Arc<Agent>,
}

impl Node {
    fn new(authority: SocketAddr, bundle: Option<Bundle>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let token_file = folder.path().join("token");
        fs::write(&token_file, "token1\n").unwrap();
        let agent = Arc::new(Agent {
            roots: Roots::default(),
            authority: authority.to_string(),
            namespace: "nsm-system".into(),
            token_file,
            bundle: watch::Sender::new(bundle),
            calls: Semaphore::new(CALLS),
        });
        Self { _folder: folder, agent }
    }

    async fn issue(&self, uid: &str) -> Result<Svid, IssueError> {
        timeout(DEADLINE, self.agent.issue(&Caller::new(uid))).await.unwrap()
    }
}

fn foreign_bundle() -> Bundle {
    let domain = TrustDomain::parse("k8s.nsm").unwrap();
    Bundle::from_pem(&StoredRoot::generate(&domain).unwrap().certificates).unwrap()
}

#[tokio::test]
async fn a_pod_gets_an_svid_and_a_pod_of_another_node_is_refused() {
    let api = FakeApi::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    start_authority(&api, listener);
    let bundle = Bundle::from_pem(&api.published().await).unwrap();
    let node = Node::new(address, Some(bundle.clone()));
    let svid = node.issue("web1").await.unwrap();
    assert_eq!(svid.id().as_str(), "spiffe://k8s.nsm/ns/default/sa/web/pod/pod-web1");
    assert_eq!(svid.bundle(), &bundle);
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(svid.key().to_vec());
    let chain = x509::split(svid.certificates()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    rustls::sign::CertifiedKey::from_der(chain, key.into(), &provider).unwrap();

    assert!(matches!(node.issue("web2").await, Err(IssueError::Refused(_))));
    // The token is read for each call.
    fs::write(&node.agent.token_file, "token2").unwrap();
    node.issue("web2").await.unwrap();
    // A token that is refused is the agent's trouble, not the pod's.
    fs::write(&node.agent.token_file, "stolen").unwrap();
    assert!(matches!(node.issue("web2").await, Err(IssueError::NotNow(_))));
}

#[tokio::test]
async fn an_authority_of_another_root_is_not_talked_to() {
    let api = FakeApi::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    start_authority(&api, listener);
    let real = Bundle::from_pem(&api.published().await).unwrap();
    let node = Node::new(address, Some(foreign_bundle()));
    let Err(IssueError::NotNow(error)) = node.issue("web1").await else { panic!("issued") };
    assert!(matches!(error.downcast_ref(), Some(SignError::Connect(..))), "{error}");
    // While the root changes both generations are trusted.
    node.agent.bundle.send_modify(|bundle| *bundle = bundle.as_ref().map(|old| old.union(&real)));
    node.issue("web1").await.unwrap();
}

#[tokio::test]
async fn a_caller_waits_for_bundle_and_authority() {
    let api = FakeApi::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let node = Node::new(address, None);
    let renewals = Renewals::new(node.agent.clone());
    let mut states = renewals.subscribe(&Caller::new("web1")).unwrap();
    assert!(matches!(node.issue("web1").await, Err(IssueError::NotNow(_))), "no bundle");
    start_authority(&api, listener);
    let bundle = Bundle::from_pem(&api.published().await).unwrap();
    assert!(matches!(*states.borrow(), State::Waiting));
    node.agent.bundle.send_replace(Some(bundle));
    let ready = states.wait_for(|state| matches!(state, State::Ready(_)));
    timeout(DEADLINE, ready).await.unwrap().unwrap();
}

/// The process as it is started, less the own place in the cgroups.
struct Daemon {
    settings: Settings,
    stop: CancellationToken,
    process: JoinHandle<Result<(), Error>>,
}

impl Daemon {
    fn start(api: &FakeApi, folder: &std::path::Path) -> Self {
        Self::start_with(api, folder, Target::Tcp("127.0.0.1:1".into()))
    }

    fn start_with(api: &FakeApi, folder: &std::path::Path, authority_url: Target) -> Self {
        let settings = Settings {
            log_level: crate::settings::LogLevel::default(),
            listen_on: Target::Unix(folder.join("agent.sock")),
            node_name: "node1".into(),
            authority_url,
            token_file: folder.join("token"),
            bundle: object("nsm-system", "bundle"),
        };
        let stop = CancellationToken::new();
        let process = tokio::spawn(serve(settings.clone(), api.client(), Roots::default(), stop.clone()));
        Self { settings, stop, process }
    }
}

/// Waits until `check` is true.
async fn until(mut check: impl AsyncFnMut() -> bool) {
    let checking = async {
        while !check().await {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, checking).await.unwrap();
}

#[tokio::test]
async fn the_agent_keeps_the_published_bundle_and_answers_its_probe() {
    let (api, folder) = (FakeApi::new(), tempfile::tempdir().unwrap());
    let daemon = Daemon::start(&api, folder.path());
    // It serves before any bundle is known.
    until(async || probe_agent(&daemon.settings).await.is_ok()).await;
    let (first, second) = (foreign_bundle(), foreign_bundle());
    let file = folder.path().join(BUNDLE_FILE);
    for bundle in [&first, &first.union(&second)] {
        api.publish(&bundle.to_pem());
        until(async || load(&file).as_ref() == Some(bundle)).await;
    }
    // What cannot be used does not replace what can.
    api.publish("rubbish");
    api.publish(&second.to_pem());
    until(async || load(&file).as_ref() == Some(&second)).await;
    daemon.stop.cancel();
    timeout(DEADLINE, daemon.process).await.unwrap().unwrap().unwrap();
    probe_agent(&daemon.settings).await.unwrap_err();
}

#[test]
fn a_damaged_bundle_on_disk_counts_as_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("new/bundle.pem");
    assert_eq!(load(&file), None);
    let bundle = foreign_bundle();
    save(&file, &bundle);
    assert_eq!(load(&file), Some(bundle));
    fs::write(&file, "rubbish").unwrap();
    assert_eq!(load(&file), None);
}
