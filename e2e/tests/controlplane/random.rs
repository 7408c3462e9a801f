//! Random settings that are valid: each can be planned, and of what was made by some of them a second look
//! finds nothing to do.

use kube::{Api, api::PostParams};
use nsm_crds::NSMConfig;
use nsm_e2e::kubernetes::Operator;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::{Value, json};

use crate::stage::Stage;

/// Settings that are planned, and those of them that are made.
const PLANNED: usize = 48;
const MADE: usize = 8;

fn one_of(words: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(words)
}

/// What is laid over a pod template with this container.
fn overrides(container: &'static str) -> impl Strategy<Value = Value> {
    let cpu = (1..9u32).prop_map(move |cpu| {
        json!({"spec": {"containers": [{"name": container, "resources": {"limits": {"cpu": cpu.to_string()}}}]}})
    });
    let env = "[A-Z]{1,8}".prop_map(move |name| {
        json!({"spec": {"containers": [{"name": container, "env": [{"name": name, "value": "1"}]}]}})
    });
    let zone = json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]});
    let affinity = json!({"spec": {"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [zone]},
    }}}});
    prop_oneof![
        3 => Just(Value::Null),
        1 => cpu,
        1 => env,
        1 => "[a-z]{1,8}".prop_map(|label| json!({"metadata": {"labels": {label: "x"}}})),
        1 => Just(json!({"spec": {"tolerations": [{"key": "a", "operator": "Exists"}]}})),
        1 => Just(affinity),
    ]
}

fn forwarders() -> impl Strategy<Value = Value> {
    let pools = proptest::collection::btree_set("[a-z]{1,6}", 0..3);
    (pools, overrides("forwarder")).prop_map(|(pools, overrides)| {
        let pool = |name: String| {
            json!({"name": format!("forwarder-{name}"), "nodeSelector": {"pool": name}, "overrides": overrides})
        };
        let all: Vec<_> = pools.into_iter().map(pool).collect();
        if all.is_empty() { json!([{"name": "forwarder", "overrides": overrides}]) } else { json!(all) }
    })
}

prop_compose! {
    fn spec()(
        level in one_of(&["ERROR", "WARN", "INFO", "DEBUG", "TRACE"]),
        pull in one_of(&["Always", "IfNotPresent", "Never"]),
        policy in one_of(&["Delete", "DeleteWhenIdle", "Orphan"]),
        domain in "[a-z]([-a-z0-9]{0,12}[a-z0-9])?",
        (svid, token) in (2..60u32, 2..60u32),
        image in proptest::option::of("[a-z]{1,9}/[a-z]{1,9}:[a-z0-9]{1,9}"),
        (authority, agent) in (overrides("nsm-identity-authority"), overrides("nsm-identity-agent")),
        (registry, manager) in (overrides("registry"), overrides("nsmgr")),
        forwarders in forwarders(),
    ) -> Value {
        json!({
            "logLevel": level, "deletionPolicy": policy, "maxTokenLifetime": format!("{token}m"),
            "images": {"mesh": image, "pullPolicy": pull},
            "identity": {"trustDomain": domain, "svidLifetime": format!("{svid}m"),
                "authority": {"overrides": authority}, "agent": {"overrides": agent}},
            "registry": {"overrides": registry}, "manager": {"overrides": manager}, "forwarders": forwarders,
        })
    }
}

fn manifest(spec: &Value) -> String {
    let config = json!({
        "apiVersion": "operator.networkservicemesh.io/v1alpha1", "kind": "NSMConfig",
        "metadata": {"name": "default"}, "spec": spec,
    });
    config.to_string()
}

#[tokio::test]
async fn random_settings_can_be_planned_and_a_second_look_finds_nothing_to_do() {
    let stage = Stage::with_mesh().await.unwrap();
    stage.ready().await.unwrap();
    let configs: Api<NSMConfig> = Api::all(stage.client.clone());
    // The same in every run.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    for number in 0..PLANNED {
        let spec = spec().new_tree(&mut runner).unwrap().current();
        let (code, text, said) = Operator::plan(&stage.plane, &[], &manifest(&spec)).unwrap();
        assert_eq!((code, said.as_str()), (2, ""), "{spec:#} {text}");
        if number % (PLANNED / MADE) != 0 {
            continue;
        }
        let mut config = configs.get("default").await.unwrap();
        config.spec = serde_json::from_value(spec.clone()).unwrap();
        configs.replace("default", &PostParams::default(), &config).await.unwrap();
        stage.ready().await.unwrap();
        let (code, text, said) = Operator::plan(&stage.plane, &[], &manifest(&spec)).unwrap();
        assert_eq!((code, said.as_str()), (0, ""), "{spec:#} {text}");
    }
    let mut config = configs.get("default").await.unwrap();
    config.spec = serde_json::from_value(json!({})).unwrap();
    configs.replace("default", &PostParams::default(), &config).await.unwrap();
    stage.ready().await.unwrap();
}
