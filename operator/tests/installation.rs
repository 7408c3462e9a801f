//! The files under `charts/` and `config/samples/`.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::format_push_string,
    reason = "helpers of tests fail by panicking, too"
)]

use std::{fs, path::Path};

use nsm_components::settings;
use nsm_crds::{NSMConfig, NetworkService, NetworkServiceEndpoint};
use nsm_operator::{install, validate};
use serde::de::DeserializeOwned;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_default()
}

fn documents(text: &str) -> Vec<Value> {
    let parse = |document: &str| serde_saphyr::from_str::<Value>(document).expect("YAML");
    format!("\n{text}").split("\n---\n").map(parse).filter(|document| !document.is_null()).collect()
}

#[test]
fn generated_files_are_current() {
    for file in install::files().unwrap() {
        assert!(
            read(&format!("charts/{}", file.path)) == file.text,
            "charts/{} is not what the types say: run `cargo run -p nsm-operator --example generate`",
            file.path
        );
    }
}

#[test]
fn the_chart_with_its_values_is_the_plain_installation() {
    let values: Value = serde_saphyr::from_str(&read("charts/nsm-operator/values.yaml")).unwrap();
    let mut text =
        read("charts/nsm-operator/templates/crds.yaml").replace("    helm.sh/resource-policy: keep\n", "");
    text = text.replace("\nmetadata:\n  annotations:\n", "\nmetadata:\n");
    for template in ["rbac", "policies", "deployment"] {
        text.push_str(&read(&format!("charts/nsm-operator/templates/{template}.yaml")));
    }
    text = text.replace("{{ .Release.Namespace }}", "nsm-operator");
    for path in ["/image/operator", "/image/mesh", "/image/pullPolicy", "/meshNamespace"] {
        let expression = format!("{{{{ .Values{} }}}}", path.replace('/', "."));
        assert!(text.contains(&expression), "{expression} is used nowhere");
        text = text.replace(&expression, values.pointer(path).unwrap().as_str().unwrap());
    }
    assert!(!text.contains("{{"), "an expression has no value");
    let plain: Vec<Value> = documents(&read("charts/install.yaml"))
        .into_iter()
        .filter(|object| object["kind"] != "Namespace")
        .collect();
    assert_eq!(documents(&text), plain);
}

#[test]
fn the_operator_gets_no_more_than_it_needs() {
    let rules: Vec<Value> = documents(&read("charts/install.yaml"))
        .into_iter()
        .filter_map(|object| object.get("rules").cloned())
        .flat_map(|rules| rules.as_array().cloned().unwrap_or_default())
        .collect();
    assert!(rules.len() > 20);
    for rule in rules {
        let has = |field: &str, word: &str| {
            rule[field].as_array().is_some_and(|words| words.iter().any(|w| w == word))
        };
        assert!(!has("verbs", "*") && !has("resources", "*") && !has("apiGroups", "*"), "{rule}");
        assert!(!has("verbs", "escalate") && !has("verbs", "impersonate"), "{rule}");
        assert!(!has("verbs", "bind") || rule.get("resourceNames").is_some(), "{rule}");
        let reads_secrets = has("resources", "secrets") && !has("verbs", "create");
        assert!(
            !reads_secrets || rule["resourceNames"] == serde_json::json!(["nsm-identity-root"]),
            "{rule}"
        );
    }
}

fn sample<K: DeserializeOwned>(object: &Value) -> K {
    serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error} in {object}"))
}

#[test]
fn samples_are_what_the_types_say() {
    let mut kinds = Vec::new();
    let mut files: Vec<_> =
        fs::read_dir(root().join("config/samples")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    for object in files.iter().flat_map(|file| documents(&fs::read_to_string(file).unwrap())) {
        match object["kind"].as_str().unwrap() {
            "NSMConfig" => {
                let mut config: NSMConfig = sample(&object);
                config.metadata.uid = Some("u".into());
                let installation = validate::Installation {
                    mesh_image: "i".into(),
                    namespace: "nsm-operator".into(),
                    service_account: "nsm-operator".into(),
                };
                validate::mesh(&config, &installation).unwrap();
            }
            "NetworkService" => assert!(sample::<NetworkService>(&object).spec.other.is_empty()),
            "NetworkServiceEndpoint" => {
                let mut endpoint: NetworkServiceEndpoint = sample(&object);
                endpoint.metadata.uid = Some("u".into());
                assert!(endpoint.spec.other.is_empty());
                validate::template(&endpoint).unwrap();
            }
            "Pod" => client(&object),
            "RoleBinding" => {
                assert_eq!(object["roleRef"]["name"], nsm_operator::names::role::ENDPOINT_WORKLOADS);
            }
            "Namespace" => {}
            kind => panic!("no type for {kind}"),
        }
        kinds.push(object["kind"].as_str().unwrap().to_owned());
    }
    for kind in ["NSMConfig", "NetworkService", "NetworkServiceEndpoint", "Pod", "Namespace", "RoleBinding"] {
        assert!(kinds.iter().any(|have| have == kind), "no sample of {kind}");
    }
}

/// The sidecar of a client reads its environment.
fn client(pod: &Value) {
    let sidecar = &pod["spec"]["initContainers"][0];
    assert_eq!(sidecar["restartPolicy"], "Always");
    let value = |variable: &Value| variable["value"].as_str().unwrap_or("x").replace("$(POD_NAME)", "x");
    let variables = sidecar["env"].as_array().expect("an environment");
    let environment: std::collections::BTreeMap<String, String> = variables
        .iter()
        .map(|variable| (variable["name"].as_str().expect("a name").to_owned(), value(variable)))
        .collect();
    let settings = settings::Nsc::read(&environment).expect("settings of a client");
    assert_eq!(settings.network_services[0].network_service, "icmp-responder");
    assert_eq!(settings.network_services[0].interface.as_deref(), Some("nsm-1"));
}

#[test]
fn the_full_sample_shows_every_setting() {
    let sample = documents(&read("config/samples/nsmconfig-full.yaml")).remove(0);
    let crds = documents(&install::crds().unwrap());
    let config = crds.iter().find(|crd| crd["spec"]["names"]["kind"] == "NSMConfig").unwrap();
    let schema = &config["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    every_field(schema, &sample["spec"], "spec");
}

fn every_field(schema: &Value, shown: &Value, path: &str) {
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let values = match shown {
            Value::Array(items) => items.clone(),
            value => vec![value.clone()],
        };
        let shown = values.iter().map(|value| &value[name]).find(|value| !value.is_null());
        let shown = shown.unwrap_or_else(|| panic!("the sample does not show {path}"));
        every_field(if below["items"].is_null() { below } else { &below["items"] }, shown, &path);
    }
}

#[test]
fn the_schema_of_the_values_knows_every_value_and_no_other() {
    let values: Value = serde_saphyr::from_str(&read("charts/nsm-operator/values.yaml")).unwrap();
    let schema: Value = serde_json::from_str(&read("charts/nsm-operator/values.schema.json")).unwrap();
    same_fields(&schema, &values, "values");
}

fn same_fields(schema: &Value, values: &Value, path: &str) {
    let Some(values) = values.as_object() else { return };
    assert_eq!(schema["additionalProperties"], false, "{path}");
    let properties = schema["properties"].as_object().unwrap();
    let mut known: Vec<_> = properties.keys().filter(|name| *name != "global").collect();
    let mut given: Vec<_> = values.keys().collect();
    known.sort();
    given.sort();
    assert_eq!(known, given, "{path}");
    for (name, value) in values {
        same_fields(&properties[name], value, &format!("{path}.{name}"));
    }
}
