//! What is rendered: golden files, nothing the API server would rewrite, and an environment that
//! the processes can read.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::format_push_string,
    reason = "helpers of tests fail by panicking, too"
)]

use std::{collections::BTreeMap, env, fs, path::Path};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use nsm_components::{
    api::trust::Trust,
    settings::{self, Storage},
};
use nsm_crds::{
    NSMConfig, NSMConfigSpec, NetworkServiceEndpoint, NetworkServiceEndpointSpec, Registry, Workload,
};
use nsm_operator::{
    names,
    object::Desired,
    render,
    validate::{self, Installation},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn mesh() -> render::Mesh {
    let installation = Installation {
        mesh_image: "nsm.local/nsm:dev".into(),
        namespace: "nsm-operator".into(),
        service_account: "nsm-operator".into(),
    };
    let mut config = NSMConfig::new("default", NSMConfigSpec::default());
    config.metadata.uid = Some("uid-of-the-config".into());
    validate::mesh(&config, &installation).expect("defaults are valid")
}

fn template() -> render::Template {
    let workload: Workload = serde_json::from_value(json!({
        "networkServices": ["finance"],
        "cidrPrefixes": ["172.16.1.0/24", "fd00::/64"],
        "labels": {"app": "gateway", "tier": "1"},
        "replicas": 2,
        "env": [{"name": "NSM_LOG_LEVEL", "value": "DEBUG"}, {"name": "MORE", "value": "x"}],
        "nodeSelector": {"kubernetes.io/hostname": "node1"},
        "resources": {"requests": {"cpu": "0.5"}, "limits": {"memory": "1024Mi"}},
    }))
    .expect("a workload");
    let spec = NetworkServiceEndpointSpec { workload: Some(workload), ..Default::default() };
    let mut endpoint = NetworkServiceEndpoint::new("gateway", spec);
    endpoint.metadata.namespace = Some("bank".into());
    endpoint.metadata.uid = Some("uid-of-the-template".into());
    validate::template(&endpoint).expect("a valid template")
}

fn all() -> Vec<Desired> {
    let tiers = render::mesh(&mesh()).expect("a mesh");
    let endpoint = render::endpoint(&mesh(), &template(), None).expect("an endpoint");
    tiers.into_iter().flat_map(|tier| tier.objects).chain([endpoint]).collect()
}

#[test]
fn manifests_are_as_committed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for tier in render::mesh(&mesh()).unwrap() {
        let file = files.entry(format!("{}.yaml", tier.name.replace(' ', "-"))).or_default();
        for object in tier.objects {
            file.push_str(&format!("---\n{}", serde_saphyr::to_string(&object.body).unwrap()));
        }
    }
    let endpoint = render::endpoint(&mesh(), &template(), None).unwrap();
    files
        .insert("endpoint.yaml".into(), format!("---\n{}", serde_saphyr::to_string(&endpoint.body).unwrap()));
    for (name, text) in files {
        let path = folder.join(&name);
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "tests/golden/{name} differs: if that is wanted, run `UPDATE_GOLDEN=1 cargo test -p nsm-operator --test rendered`"
        );
    }
}

#[test]
fn registries_that_share_what_they_keep_are_several_and_one_in_memory_is_alone_and_without_rights() {
    let of_registry = |storage| -> Vec<Desired> {
        let registry = Registry { storage, ..Registry::default() };
        let tiers = render::mesh(&render::Mesh { registry, ..mesh() }).unwrap();
        tiers
            .into_iter()
            .flat_map(|tier| tier.objects)
            .filter(|one| one.key.name.contains("registry"))
            .collect()
    };
    let kinds = |objects: &[Desired]| objects.iter().map(|one| one.key.kind.name()).collect::<Vec<_>>();
    let deployment = |objects: &[Desired]| {
        let found = objects.iter().find(|one| one.key.kind.is_workload()).unwrap();
        let text = |pointer: &str| found.body.pointer(pointer).cloned().unwrap_or_default();
        let token = text("/spec/template/spec/automountServiceAccountToken");
        (text("/spec/replicas"), text("/spec/strategy/type"), token)
    };
    let (shared, alone) = (of_registry(nsm_crds::Storage::Crd), of_registry(nsm_crds::Storage::Memory));
    assert_eq!(
        kinds(&shared),
        [
            "ServiceAccount",
            "ClusterRoleBinding",
            "RoleBinding",
            "Service",
            "PodDisruptionBudget",
            "Deployment"
        ]
    );
    assert_eq!(deployment(&shared), (json!(2), json!("RollingUpdate"), json!(true)));
    assert_eq!(kinds(&alone), ["ServiceAccount", "Service", "Deployment"]);
    assert_eq!(deployment(&alone), (json!(1), json!("Recreate"), json!(false)));
}

#[test]
fn rendering_is_stable() {
    assert_eq!(all(), all());
}

/// Booleans and numbers that are pointers in the API: their zero value is kept.
const KEPT: [&str; 3] = ["allowPrivilegeEscalation", "automountServiceAccountToken", "replicas"];

#[test]
fn nothing_is_rendered_that_the_api_server_would_drop_or_rewrite() {
    fn check(value: &Value, path: &str) {
        let dropped =
            matches!(value, Value::Null | Value::Bool(false)) || *value == json!("") || *value == json!(0);
        let kept = KEPT.iter().any(|name| path.ends_with(name));
        assert!(kept || !dropped, "{path} is {value}");
        match value {
            Value::Array(items) => {
                assert!(!items.is_empty(), "{path} is empty");
                items.iter().enumerate().for_each(|(index, item)| check(item, &format!("{path}/{index}")));
            }
            Value::Object(map) => map.iter().for_each(|(name, item)| check(item, &format!("{path}/{name}"))),
            _ => {}
        }
    }
    for object in all() {
        check(&object.body, &object.key.to_string());
        let ports = object.body.pointer("/spec/template/spec/containers/0/ports");
        assert_eq!(ports, None, "{}: host-network pods declare no ports", object.key);
    }
}

#[test]
fn every_object_is_labelled_owned_and_marked() {
    for object in all() {
        let metadata = &object.body["metadata"];
        assert_eq!(metadata["labels"]["app.kubernetes.io/managed-by"], "nsm-operator", "{}", object.key);
        assert_eq!(metadata["ownerReferences"][0]["controller"], true, "{}", object.key);
        assert!(object.revision().is_some(), "{}", object.key);
    }
}

/// The environment of a rendered container as its process sees it on a node.
fn environment(name: &str) -> BTreeMap<String, String> {
    let object = all().into_iter().find(|object| {
        object.key.component() == name && object.body.pointer("/spec/template/spec/containers").is_some()
    });
    let container = object.expect("a workload").body["spec"]["template"]["spec"]["containers"][0].clone();
    let mut known: BTreeMap<String, String> =
        [("REGISTRY_SERVICE_HOST", "10.96.0.5"), ("NSM_IDENTITY_AUTHORITY_SERVICE_HOST", "10.96.0.6")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    for variable in container["env"].as_array().expect("an environment") {
        let name = variable["name"].as_str().expect("a name").to_owned();
        let field = variable.pointer("/valueFrom/fieldRef/fieldPath").and_then(Value::as_str);
        let value = match field {
            Some("spec.nodeName") => "node1".to_owned(),
            Some("status.hostIP") => "192.168.0.1".to_owned(),
            Some("metadata.name") => "pod-1".to_owned(),
            Some(other) => panic!("unknown field {other}"),
            None => expand(variable["value"].as_str().expect("a value"), &known),
        };
        known.insert(name, value);
    }
    known
}

/// `$(NAME)` as Kubernetes expands it: only what stands before, else it is left as it is.
fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    known.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("$({name})"), value))
}

#[test]
fn the_processes_read_what_is_rendered_for_them() {
    for name in ["nsmgr", "forwarder", "registry", "nsm-identity-agent", "nsm-identity-authority", "gateway"]
    {
        for (variable, value) in environment(name) {
            assert!(!value.contains("$("), "{name}: {variable} is {value}");
        }
    }
    let nsmgr = settings::Nsmgr::read(&environment("nsmgr")).unwrap();
    assert_eq!(nsmgr.common.name, "nsmgr-node1");
    assert_eq!(nsmgr.node_state.as_deref(), Some("node1"));
    assert_eq!(nsmgr.registry_url.to_string(), "tcp://10.96.0.5:5002");
    assert_eq!(nsmgr.listen_on[1].to_string(), "tcp://192.168.0.1:5001");
    let forwarder = settings::Forwarder::read(&environment("forwarder")).unwrap();
    assert_eq!(forwarder.tunnel_ip, Some([192, 168, 0, 1].into()));
    let registry = settings::Registry::read(&environment("registry")).unwrap();
    assert_eq!(registry.common.name, "registry");
    let Storage::Crd { namespace, replica } = registry.storage else { panic!("{:?}", registry.storage) };
    assert_eq!(namespace, "nsm-system");
    assert!(replica.is_some(), "who it is among several");
    let agent = settings::IdentityAgent::read(&environment("nsm-identity-agent")).unwrap();
    assert_eq!(agent.authority_url.to_string(), "tcp://10.96.0.6:5010");
    let authority = settings::IdentityAuthority::read(&environment("nsm-identity-authority")).unwrap();
    assert_eq!(authority.root_secret.namespace, "nsm-operator");
    assert_eq!(authority.bundle, agent.bundle);
    let nse = settings::Nse::read(&environment("gateway")).unwrap();
    assert_eq!((nse.endpoint.common.name.as_str(), nse.cidr_prefix.len()), ("pod-1", 2));
    assert_eq!(nse.endpoint.labels["app"], "gateway");
    assert_eq!(environment("gateway")["NSM_LOG_LEVEL"], "DEBUG");
    // Of the mesh are its node daemons, wherever the process runs.
    for common in [&nsmgr.common, &forwarder.common, &nse.endpoint.common] {
        let trust = Trust::new(&common.trusted_ids, "spiffe://k8s.nsm/ns/demo/sa/default/pod/pod-1");
        for account in ["nsmgr", "forwarder"] {
            let id = format!("spiffe://k8s.nsm/ns/nsm-system/sa/{account}");
            assert!(trust.trusts(&format!("{id}/node/node1")), "{id}");
            assert!(!trust.trusts(&format!("{id}/pod/pod-1")), "{id}");
        }
        assert!(!trust.trusts("spiffe://k8s.nsm/ns/demo/sa/nsmgr/node/node1"));
        assert!(!trust.trusts("spiffe://k8s.nsm/ns/demo/sa/default/pod/pod-1"));
    }
}

#[test]
fn the_apply_set_has_the_name_that_its_parent_gives_it() {
    let parent = "default..NSMConfig.operator.networkservicemesh.io";
    let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(parent));
    assert_eq!(names::apply_set::ID, format!("applyset-{hash}-v1"));
    let members = render::mesh(&mesh()).unwrap().into_iter().flat_map(|tier| tier.objects);
    for object in members {
        let label = object.body["metadata"]["labels"][names::apply_set::MEMBER].as_str();
        assert_eq!(label, Some(names::apply_set::ID), "{}", object.key);
    }
    let kinds = &render::parent().annotations[names::apply_set::KINDS];
    assert!(kinds.starts_with("ClusterRoleBinding.rbac.authorization.k8s.io,DaemonSet.apps,"), "{kinds}");
}

/// A template that runs the mesh's own endpoint.
fn plain() -> render::Template {
    let mut template = template();
    template.workload.image = None;
    template.workload.env.clear();
    template
}

const IMAGE: &str = "/spec/template/spec/containers/0/image";

#[test]
fn a_new_release_of_the_mesh_or_another_log_level_restarts_no_endpoint() {
    let old = render::endpoint(&mesh(), &plain(), None).unwrap();
    let mut newer = mesh();
    newer.image = "nsm.local/nsm:newer".into();
    newer.log_level = nsm_crds::LogLevel::Debug;
    assert_eq!(render::endpoint(&newer, &plain(), Some(&old.body)).unwrap(), old);
}

#[test]
fn an_endpoint_that_changes_anyway_or_is_restarted_by_its_user_gets_the_new_release() {
    let old = render::endpoint(&mesh(), &plain(), None).unwrap();
    let mut newer = mesh();
    newer.image = "nsm.local/nsm:newer".into();
    let image = |object: &Desired| object.body.pointer(IMAGE).unwrap().as_str().unwrap().to_owned();

    let mut edited = plain();
    edited.workload.labels.insert("tier".into(), "2".into());
    assert_eq!(image(&render::endpoint(&newer, &edited, Some(&old.body)).unwrap()), newer.image);

    let mut restarted = old.body.clone();
    restarted["spec"]["template"]["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/restartedAt": "2020-01-01T00:00:00Z"});
    let moved = render::endpoint(&newer, &plain(), Some(&restarted)).unwrap();
    assert_eq!(image(&moved), newer.image);
    // As the API server has it then: what was asked for stays, and is no reason any more.
    let mut live = moved.body.clone();
    live["spec"]["template"]["metadata"]["annotations"] =
        restarted["spec"]["template"]["metadata"]["annotations"].clone();
    newer.image = "nsm.local/nsm:newest".into();
    assert_eq!(render::endpoint(&newer, &plain(), Some(&live)).unwrap(), moved);
}

#[test]
fn an_image_that_is_edited_or_a_note_of_it_is_put_back() {
    let old = render::endpoint(&mesh(), &plain(), None).unwrap();
    let mut edited = old.body.clone();
    *edited.pointer_mut(IMAGE).unwrap() = "nsm.local/other:1".into();
    assert_eq!(render::endpoint(&mesh(), &plain(), Some(&edited)).unwrap(), old);
    let mut forged = old.body.clone();
    forged["metadata"]["annotations"][names::MESH_IMAGE] = "nsm.local/other:1".into();
    assert_eq!(render::endpoint(&mesh(), &plain(), Some(&forged)).unwrap(), old);
}
