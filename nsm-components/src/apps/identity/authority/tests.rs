use std::time::Duration;

use rcgen::PublicKeyData as _;
use tokio::{task::JoinHandle, time::timeout};
use tonic::{Code, Request, Status};

use super::*;
use crate::{
    api::identity::{SignRequest, SignResponse, identity_authority_client::IdentityAuthorityClient},
    apps::identity::{
        agent,
        bundle::Bundle,
        ca,
        fake_api::{FakeApi, pod},
        probe_authority,
        tls::Trust,
        x509,
    },
};

const DEADLINE: Duration = Duration::from_secs(20);

/// An authority that serves.
struct Running {
    settings: Settings,
    bundle: Bundle,
    stop: CancellationToken,
    process: JoinHandle<Result<(), Error>>,
}

fn object(namespace: &str, name: &str) -> ObjectRef {
    ObjectRef { namespace: namespace.into(), name: name.into() }
}

impl Running {
    async fn start(api: &FakeApi) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = Settings {
            log_level: crate::settings::LogLevel::default(),
            listen_on: Target::Tcp(listener.local_addr().unwrap().to_string()),
            trust_domain: "k8s.nsm".into(),
            svid_lifetime: Duration::from_hours(1),
            root_secret: object("nsm-operator", "root"),
            bundle: object("nsm-system", "bundle"),
            agent_account: object("nsm-system", "nsm-identity-agent"),
        };
        let stop = CancellationToken::new();
        let process = tokio::spawn(serve(settings.clone(), api.client(), listener, stop.clone()));
        let bundle = Bundle::from_pem(&timeout(DEADLINE, api.published()).await.unwrap()).unwrap();
        Self { settings, bundle, stop, process }
    }

    async fn sign(&self, token: Option<&str>, pod_uid: &str) -> Result<(SignResponse, Vec<u8>), Status> {
        let Target::Tcp(address) = &self.settings.listen_on else { unreachable!() };
        let server = self.bundle.domain().authority("nsm-system").unwrap();
        let config = tls::client_config(Trust::Roots(self.bundle.roots().unwrap()), server).unwrap();
        let channel = timeout(DEADLINE, agent::connect(address, config)).await.unwrap().unwrap();
        let public_key = ca::leaf_key().unwrap().subject_public_key_info();
        let mut request =
            Request::new(SignRequest { pod_uid: pod_uid.into(), public_key: public_key.clone() });
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let response = IdentityAuthorityClient::new(channel).sign(request).await?;
        Ok((response.into_inner(), public_key))
    }

    async fn id(&self, token: &str, pod_uid: &str) -> Result<String, Code> {
        let (response, _) = self.sign(Some(token), pod_uid).await.map_err(|status| status.code())?;
        Ok(response.spiffe_id)
    }
}

#[tokio::test]
async fn a_pod_of_the_agents_node_gets_the_id_the_api_server_says() {
    let authority = Running::start(&FakeApi::new()).await;
    let (response, public_key) = authority.sign(Some("token1"), "web1").await.unwrap();
    assert_eq!(response.spiffe_id, "spiffe://k8s.nsm/ns/default/sa/web/pod/pod-web1");
    assert_eq!(x509::spiffe_id(&response.certificates).unwrap().as_str(), response.spiffe_id);
    assert_eq!(x509::public_key(&response.certificates).unwrap(), public_key);
    assert_eq!(x509::validity(&response.certificates).unwrap().lifetime(), authority.settings.svid_lifetime);
    assert_eq!(Bundle::from_der(&response.bundle).unwrap(), authority.bundle);

    let daemon = authority.id("token1", "nsmgr1").await.unwrap();
    assert_eq!(daemon, "spiffe://k8s.nsm/ns/nsm-system/sa/nsmgr/node/node1");
}

#[tokio::test]
async fn a_pod_of_another_node_is_refused() {
    let authority = Running::start(&FakeApi::new()).await;
    assert_eq!(authority.id("token1", "web2").await, Err(Code::PermissionDenied));
    assert_eq!(authority.id("token2", "web1").await, Err(Code::PermissionDenied));
    authority.id("token2", "web2").await.unwrap();
}

#[tokio::test]
async fn a_token_that_is_no_agents_is_refused() {
    let api = FakeApi::new();
    // Good in itself, of another account.
    api.knows_token("nsmgr", "nsmgr", "nsmgr1", "node1");
    // Of the agent's account, but its pod is something else, or elsewhere.
    api.knows_token("not an agent's pod", "nsm-identity-agent", "web1", "node1");
    api.knows_token("moved", "nsm-identity-agent", "agent2", "node1");
    let authority = Running::start(&api).await;
    for token in ["unknown", "nsmgr", "not an agent's pod", "moved"] {
        assert_eq!(authority.id(token, "web1").await, Err(Code::Unauthenticated), "{token}");
    }
    let without = authority.sign(None, "web1").await.unwrap_err();
    assert_eq!(without.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_pod_that_the_watch_shows_late_is_awaited() {
    let api = FakeApi::new();
    let authority = Running::start(&api).await;
    let (asked, ()) = tokio::join!(authority.id("token1", "late"), async {
        api.add_pod(pod("late", "default", "web", "node1", "ReplicaSet"));
    });
    assert_eq!(asked.unwrap(), "spiffe://k8s.nsm/ns/default/sa/web/pod/pod-late");
}

#[tokio::test]
async fn replicas_that_start_together_share_one_root() {
    let api = FakeApi::new();
    let (a, b) = tokio::join!(Running::start(&api), Running::start(&api));
    assert_eq!(a.bundle, b.bundle);
    let (signed, _) = b.sign(Some("token1"), "web1").await.unwrap();
    assert_eq!(Bundle::from_der(&signed.bundle).unwrap(), a.bundle);
}

#[tokio::test]
async fn the_probe_succeeds_while_the_authority_serves() {
    let authority = Running::start(&FakeApi::new()).await;
    timeout(DEADLINE, probe_authority(&authority.settings)).await.unwrap().unwrap();
    let elsewhere = Settings { trust_domain: "other".into(), ..authority.settings.clone() };
    probe_authority(&elsewhere).await.unwrap_err();
    authority.stop.cancel();
    timeout(DEADLINE, authority.process).await.unwrap().unwrap().unwrap();
    probe_authority(&authority.settings).await.unwrap_err();
}
