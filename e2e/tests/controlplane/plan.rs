//! The command that tells what an NSMConfig would change.

use kube::Api;
use nsm_crds::NSMConfig;
use nsm_e2e::kubernetes::{ControlPlane, Operator, without_revision};
use serde_json::Value;

use crate::stage::{CONFIG, Stage};

const NOTHING: &str = "0 to create, 0 to change, 0 to replace on every node, 0 to delete\n";

#[tokio::test]
async fn what_an_nsmconfig_would_change_is_printed_and_nothing_is_written() {
    let mut stage = Stage::with_mesh().await.unwrap();
    stage.ready().await.unwrap();
    stage.stop_operator().await.unwrap();
    let before = stage.plane.kubectl(&["get", "ds,deploy,svc,sa,nsm", "-A", "-o", "json"]).unwrap();
    let plan = |arguments: &[&str], config: &str| Operator::plan(&stage.plane, arguments, config).unwrap();
    assert_eq!(plan(&[], CONFIG), (0, NOTHING.into(), String::new()));

    let other =
        CONFIG.replace("{}", "{manager: {overrides: {spec: {priority: 7}}}, identity: {svidLifetime: 2h}}");
    let (code, text, _) = plan(&[], &other);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((code, lines.len()), (2, 3), "{text}");
    assert!(lines[0].starts_with("change Deployment nsm-system/nsm-identity-authority"), "{text}");
    assert!(lines[1].starts_with("replace DaemonSet nsm-system/nsmgr-"), "{text}");
    assert!(lines[1].contains(": instead of nsmgr-") && lines[1].ends_with("node by node"), "{text}");
    assert_eq!(lines[2], "0 to create, 1 to change, 1 to replace on every node, 0 to delete");

    let two = CONFIG.replace("{}", "{forwarders: [{name: forwarder-a, nodeSelector: {a: b}}]}");
    let (code, text, said) = plan(&["--output", "json"], &two);
    assert_eq!(said, "");
    let forecast: Value = serde_json::from_str(&text).unwrap();
    let words = |change: &Value| {
        let text = |name: &str| change[name].as_str().unwrap_or_default().to_owned();
        format!(
            "{} {} {}/{}",
            text("action"),
            text("kind"),
            text("namespace"),
            without_revision(&text("name"))
        )
    };
    let changes: Vec<_> = forecast["changes"].as_array().unwrap().iter().map(words).collect();
    assert_eq!(code, 2);
    assert_eq!(changes, ["create DaemonSet nsm-system/forwarder-a", "delete DaemonSet nsm-system/forwarder"]);

    for (config, told) in [
        (CONFIG.replace("{}", "{logLevel: LOUD}"), "LOUD"),
        (CONFIG.replace("{}", "{maxTokenLifetime: '+10m'}"), "write a duration such as 10m or 1h"),
        (CONFIG.replace("name: default", "name: other"), "the name must be 'default'"),
        ("kind: Pod".to_owned(), "NSMConfig is allowed"),
    ] {
        let (code, text, said) = plan(&[], &config);
        assert_eq!((code, text.as_str()), (3, ""), "{said}");
        assert!(said.contains(told), "{told} in {said}");
    }
    let (code, _, said) = plan(&["--namespace", "elsewhere"], CONFIG);
    assert_eq!(code, 1);
    assert!(said.contains("--mesh-image"), "{said}");
    let after = stage.plane.kubectl(&["get", "ds,deploy,svc,sa,nsm", "-A", "-o", "json"]).unwrap();
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_plan_of_what_is_not_there_creates_everything_and_needs_the_definitions() {
    let stage = Stage::installed().await.unwrap();
    let (code, text, said) = Operator::plan(&stage.plane, &[], CONFIG).unwrap();
    assert_eq!(code, 2, "{said}");
    let last = text.lines().last().unwrap();
    assert_eq!(last, "22 to create, 0 to change, 0 to replace on every node, 0 to delete");
    let configs: Api<NSMConfig> = Api::all(stage.client.clone());
    assert!(configs.get_opt("default").await.unwrap().is_none());

    let bare = ControlPlane::start().unwrap();
    let (code, text, said) = Operator::plan(&bare, &["--mesh-image", "i"], CONFIG).unwrap();
    assert_eq!((code, text.as_str()), (1, ""), "{said}");
    assert!(said.contains("nsm-operator manifests | kubectl apply"), "{said}");
}
