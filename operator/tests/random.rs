//! Whatever settings the definitions allow: they can be rendered, always to the same, and what the API
//! server makes of it is in sync.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

use nsm_crds::{NSMConfig, NSMConfigSpec};
use nsm_operator::{
    plan::{Step, step},
    render,
    validate::{self, Installation},
};
use proptest::prelude::*;
use serde_json::{Value, json};

mod stored;

fn installation() -> Installation {
    Installation {
        mesh_image: "nsm.local/nsm:dev".into(),
        namespace: "nsm-operator".into(),
        service_account: "nsm-operator".into(),
    }
}

fn duration() -> impl Strategy<Value = String> {
    (1..24u32, prop_oneof![Just("m"), Just("h")])
        .prop_map(|(n, unit)| format!("{}{unit}", n + u32::from(unit == "m") * 10))
}

/// Parts of pod templates, sound and not: what cannot be is for the API server to say.
fn overrides() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        3 => Just(None),
        1 => Just(Some(json!({}))),
        1 => "[a-z]{1,8}".prop_map(|label| Some(json!({"metadata": {"labels": {label: "x"}}}))),
        1 => (1..9u32).prop_map(|cpu| Some(json!({"spec": {"containers": [
            {"name": "nsmgr", "resources": {"limits": {"cpu": cpu.to_string()}}, "env": [{"name": "A", "value": "1"}]},
            {"name": "more", "image": "i"}
        ]}}))),
        1 => Just(Some(json!({"spec": {"tolerations": null, "containers": [], "hostNetwork": null}}))),
        1 => Just(Some(json!({"spec": {"containers": "nonsense", "volumes": {"a": [1, null]}}}))),
        1 => Just(Some(json!({"spec": null}))),
    ]
}

fn forwarders() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map("[a-z][a-z0-9]{0,8}", overrides(), 0..4).prop_map(|pools| {
        let pool = |(name, overrides): (String, Option<Value>)| {
            json!({"name": format!("forwarder-{name}"), "nodeSelector": {"pool": name}, "overrides": overrides})
        };
        let items: Vec<_> = pools.into_iter().map(pool).collect();
        if items.is_empty() { json!([{"name": "forwarder"}]) } else { json!(items) }
    })
}

prop_compose! {
    fn spec()(
        namespace in "[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?",
        image in proptest::option::of("[a-z]{1,9}/[a-z]{1,9}:[a-z0-9]{1,9}"),
        pull in prop_oneof![Just("Always"), Just("IfNotPresent"), Just("Never")],
        domain in "[a-z0-9]([-._a-z0-9]{0,20}[a-z0-9])?",
        level in prop_oneof![Just("ERROR"), Just("WARN"), Just("INFO"), Just("DEBUG"), Just("TRACE")],
        policy in prop_oneof![Just("Delete"), Just("DeleteWhenIdle"), Just("Orphan")],
        svid in duration(),
        token in duration(),
        parts in [overrides(), overrides(), overrides(), overrides()],
        forwarders in forwarders(),
    ) -> Value {
        let [authority, agent, registry, manager] = parts;
        json!({
            "namespace": namespace, "logLevel": level, "deletionPolicy": policy, "maxTokenLifetime": token,
            "images": {"mesh": image, "pullPolicy": pull},
            "identity": {"trustDomain": domain, "svidLifetime": svid,
                "authority": {"overrides": authority}, "agent": {"overrides": agent}},
            "registry": {"overrides": registry}, "manager": {"overrides": manager}, "forwarders": forwarders,
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_settings_render_and_the_second_pass_has_nothing_to_do(spec in spec()) {
        let spec: NSMConfigSpec = serde_json::from_value(spec).unwrap();
        let mut config = NSMConfig::new("default", spec);
        config.metadata.uid = Some("u".into());
        let mesh = match validate::mesh(&config, &installation()) {
            Ok(mesh) => mesh,
            Err(error) => {
                prop_assert!(config.spec.namespace == "nsm-operator", "{}", error);
                return Ok(());
            }
        };
        let first = render::mesh(&mesh).unwrap();
        prop_assert_eq!(&first, &render::mesh(&mesh).unwrap());
        for desired in first.iter().flat_map(|tier| &tier.objects) {
            prop_assert_eq!(step(desired, None), Step::Create);
            prop_assert_eq!(step(desired, Some(&stored::applied(desired))), Step::Nothing, "{}", desired.key);
        }
        // And it survives the way through the API server.
        let again: NSMConfig = serde_json::from_value(serde_json::to_value(&config).unwrap()).unwrap();
        prop_assert_eq!(again, config);
    }
}
