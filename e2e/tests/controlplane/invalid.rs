//! Settings that no mesh can have, made from the schema of the `NSMConfig`: each is refused, and told
//! with the field and what would be right.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;
use nsm_crds::NSMConfig;
use serde_json::{Value, json};

use crate::definitions::{definitions, refusal};

/// A spec that is wrong, and parts of what has to be said of it.
struct Wrong {
    spec: Value,
    said: Vec<String>,
}

#[tokio::test]
async fn every_field_refuses_what_it_cannot_be_and_says_what_would_be_right() {
    let (_, client) = definitions().await;
    let mut wrong = Vec::new();
    each(&schema(), &[], &mut wrong);
    wrong.extend(rules());
    assert!(wrong.len() >= 60, "only {}", wrong.len());
    for Wrong { spec, said } in wrong {
        let manifest = json!({
            "apiVersion": "operator.networkservicemesh.io/v1alpha1", "kind": "NSMConfig",
            "metadata": {"name": "default"}, "spec": spec,
        });
        let message = refusal(&client, &manifest.to_string()).await;
        for part in said {
            assert!(message.contains(&part), "{part:?} is not said of {spec}: {message}");
        }
    }
}

/// What crosses fields, and what words cannot be.
fn rules() -> Vec<Wrong> {
    let wrong =
        |spec: Value, said: &[&str]| Wrong { spec, said: said.iter().map(ToString::to_string).collect() };
    let forwarders = |items: Value| json!({"forwarders": items});
    vec![
        wrong(
            json!({"maxTokenLifetime": "1s"}),
            &["spec.maxTokenLifetime", "must be a duration from 10s to 24h"],
        ),
        wrong(json!({"maxTokenLifetime": "25h"}), &["spec.maxTokenLifetime", "such as 10m"]),
        wrong(json!({"maxTokenLifetime": "soon"}), &["spec.maxTokenLifetime", "such as 10m"]),
        wrong(
            json!({"identity": {"svidLifetime": "1s"}}),
            &["spec.identity.svidLifetime", "from 1m to 720h"],
        ),
        wrong(json!({"identity": {"svidLifetime": "721h"}}), &["spec.identity.svidLifetime", "such as 1h"]),
        wrong(
            forwarders(json!([{"name": "forwarder"}, {"name": "forwarder-b"}])),
            &["spec.forwarders", "two forwarders may not share a node: give each a nodeSelector"],
        ),
        wrong(
            forwarders(
                json!([{"name": "forwarder", "nodeSelector": {"a": "1"}}, {"name": "forwarder-b", "nodeSelector": {"b": "1"}}]),
            ),
            &["spec.forwarders", "another value of the same label"],
        ),
        wrong(
            forwarders(json!([{"name": "forwarder"}, {"name": "forwarder"}])),
            &["spec.forwarders[1]", "Duplicate value"],
        ),
        wrong(forwarders(json!([{"name": "other"}])), &["spec.forwarders[0].name", "^forwarder"]),
        wrong(forwarders(json!([{}])), &["spec.forwarders[0].name", "Required value"]),
    ]
}

fn schema() -> JSONSchemaProps {
    let crd = NSMConfig::crd();
    let schema = crd.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
    schema.properties.unwrap()["spec"].clone()
}

/// Where a field is: names, and places in lists.
type Path<'a> = &'a [&'a str];

const FIRST: &str = "0";

fn each(schema: &JSONSchemaProps, path: Path<'_>, wrong: &mut Vec<Wrong>) {
    if let Some(properties) = &schema.properties {
        let unknown = [path, &["nonsense"]].concat();
        wrong.push(at(&unknown, json!(1), &["unknown field"]));
        for (name, below) in properties {
            each(below, &[path, &[name]].concat(), wrong);
        }
    } else if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        each(items, &[path, &[FIRST]].concat(), wrong);
    }
    if path.is_empty() || path.last() == Some(&FIRST) {
        return;
    }
    let kind = schema.type_.as_deref().unwrap_or_default();
    let told = format!("must be of type {kind}");
    for (is, value) in [
        ("string", json!("text")),
        ("integer", json!(1)),
        ("boolean", json!(true)),
        ("array", json!([])),
        ("object", json!({})),
    ] {
        if is != kind {
            wrong.push(at(path, value, &[&told]));
        }
    }
    for word in words(schema) {
        wrong.push(at(path, json!(word), &[]));
    }
    if let Some(most) = schema.max_items {
        let many: Vec<_> = (0..=most).map(|n| json!({"name": format!("forwarder-{n}")})).collect();
        wrong.push(at(path, json!(many), &[&format!("at most {most} items")]));
    }
    if schema.min_items.is_some() {
        wrong.push(at(path, json!([]), &["at least 1 items"]));
    }
}

/// Words that a text cannot be.
fn words(schema: &JSONSchemaProps) -> Vec<String> {
    let mut words = Vec::new();
    if schema.enum_.is_some() || schema.pattern.is_some() {
        words.push("No Such Thing".into());
    }
    if let Some(most) = schema.max_length {
        words.push("x".repeat(usize::try_from(most).unwrap() + 1));
    }
    if schema.min_length.is_some() {
        words.push(String::new());
    }
    words
}

/// A spec with this value in one place; what is said names the place.
fn at(path: Path<'_>, value: Value, parts: &[&str]) -> Wrong {
    let spec = path
        .iter()
        .rev()
        .fold(value, |value, name| if *name == FIRST { json!([value]) } else { json!({*name: value}) });
    let named = path.iter().fold("spec".to_owned(), |named, name| {
        if *name == FIRST { format!("{named}[0]") } else { format!("{named}.{name}") }
    });
    Wrong { spec, said: std::iter::once(named).chain(parts.iter().map(ToString::to_string)).collect() }
}
