//! From what users and the installation say to values that can be rendered. No effects.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use nsm_crds::{CONFIG_NAME, NSMConfig, NSMConfigSpec, NetworkServiceEndpoint, Workload};
use serde_json::Value;

use crate::{
    names::{self, component},
    render::{Mesh, Template},
};

/// What the operator itself was installed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// Image of the mesh when an `NSMConfig` names none.
    pub mesh_image: String,
    /// Namespace of the operator.
    pub namespace: String,
    /// Service account of the operator.
    pub service_account: String,
}

/// Why a resource cannot be rendered, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another name than the one.
    #[error("the NSMConfig {name:?} is not used: there is one mesh a cluster, make it {CONFIG_NAME:?}")]
    Name {
        /// Its name.
        name: String,
    },
    /// An object that was never stored.
    #[error("{kind} {name} has no uid, so nothing can be owned by it")]
    NoUid {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The operands' namespace must be privileged, the operator's must not.
    #[error(
        "spec.namespace {namespace:?} is the operator's own namespace: choose another, such as nsm-system"
    )]
    OperatorNamespace {
        /// The namespace.
        namespace: String,
    },
    /// A duration nobody can read.
    #[error("{field} is {value:?}: write a duration such as 10m or 1h")]
    Duration {
        /// The field.
        field: &'static str,
        /// What stands there.
        value: String,
    },
    /// An endpoint without a workload is a registration.
    #[error("NetworkServiceEndpoint {name} has no spec.workload: it is a registration and runs nothing")]
    NoWorkload {
        /// Its name.
        name: String,
    },
    /// A template that offers nothing.
    #[error("spec.workload.networkServices of {name} is empty: name at least one network service")]
    NoServices {
        /// Its name.
        name: String,
    },
    /// A separator of lists within an entry.
    #[error("{field} has {value:?}: ',' and ':' separate entries and cannot stand in one")]
    Separator {
        /// The field.
        field: &'static str,
        /// The entry.
        value: String,
    },
}

/// The mesh that a config means.
pub fn mesh(config: &NSMConfig, installation: &Installation) -> Result<Mesh, Error> {
    let name = config.name_any();
    if name != CONFIG_NAME {
        return Err(Error::Name { name });
    }
    let spec = &config.spec;
    if spec.namespace == installation.namespace {
        return Err(Error::OperatorNamespace { namespace: spec.namespace.clone() });
    }
    duration("spec.maxTokenLifetime", &spec.max_token_lifetime)?;
    duration("spec.identity.svidLifetime", &spec.identity.svid_lifetime)?;
    duration(TEARDOWN_TIMEOUT, &spec.teardown_timeout)?;
    Ok(Mesh {
        namespace: spec.namespace.clone(),
        operator_namespace: installation.namespace.clone(),
        operator_account: installation.service_account.clone(),
        image: spec.images.mesh.clone().unwrap_or_else(|| installation.mesh_image.clone()),
        pull_policy: spec.images.pull_policy,
        log_level: spec.log_level,
        trust_domain: spec.identity.trust_domain.clone(),
        svid_lifetime: spec.identity.svid_lifetime.clone(),
        max_token_lifetime: spec.max_token_lifetime.clone(),
        registry: spec.registry.clone(),
        forwarders: spec.forwarders.clone(),
        overrides: overrides(spec),
        addresses: BTreeMap::new(),
        accounts: BTreeMap::new(),
        owner: owner(config, "NSMConfig")?,
    })
}

const TEARDOWN_TIMEOUT: &str = "spec.teardownTimeout";

/// How long nodes may take to close their connections. A mesh with a value that is none was never made.
pub fn teardown_timeout(config: &NSMConfig) -> Duration {
    duration(TEARDOWN_TIMEOUT, &config.spec.teardown_timeout).unwrap_or_default()
}

/// What is laid over pod templates, by the names of the workloads.
fn overrides(spec: &NSMConfigSpec) -> BTreeMap<String, Value> {
    let processes = [
        (component::AUTHORITY, &spec.identity.authority.overrides),
        (component::AGENT, &spec.identity.agent.overrides),
        (component::REGISTRY, &spec.registry.overrides),
        (component::NSMGR, &spec.manager.overrides),
    ];
    let forwarders = spec.forwarders.iter().map(|forwarder| (forwarder.name.as_str(), &forwarder.overrides));
    processes
        .into_iter()
        .chain(forwarders)
        .filter_map(|(name, overrides)| Some((name.to_owned(), overrides.clone()?)))
        .collect()
}

/// What annotations of an `NSMConfig` ask of the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// Nothing is to be written but status.
    pub paused: bool,
    /// Nothing is to be written, and status is to tell what would be.
    pub plan_only: bool,
    /// A new value asks for another try.
    pub retry: Option<String>,
    /// How many objects may be deleted at once though they are most of the mesh.
    pub allow_prune: usize,
}

/// Reads the annotations.
pub fn directives(config: &NSMConfig) -> Directives {
    let annotation = |name: &str| config.annotations().get(name).cloned();
    let holds = |name| annotation(name).is_some_and(|value| value == "true");
    Directives {
        paused: holds(names::PAUSED),
        plan_only: holds(names::PLAN_ONLY),
        retry: annotation(names::RETRY),
        allow_prune: annotation(names::ALLOW_PRUNE).and_then(|value| value.parse().ok()).unwrap_or(0),
    }
}

/// The template that a `NetworkServiceEndpoint` means.
pub fn template(endpoint: &NetworkServiceEndpoint) -> Result<Template, Error> {
    let name = endpoint.name_any();
    let Some(workload) = &endpoint.spec.workload else { return Err(Error::NoWorkload { name }) };
    if workload.network_services.is_empty() {
        return Err(Error::NoServices { name });
    }
    no_separators(workload)?;
    Ok(Template {
        namespace: endpoint.namespace().unwrap_or_default(),
        name,
        workload: workload.clone(),
        owner: owner(endpoint, "NetworkServiceEndpoint")?,
    })
}

/// The command that lets the operator run endpoints in a namespace.
pub fn permit_command(namespace: &str, installation: &Installation) -> String {
    format!(
        "kubectl create rolebinding {role} --namespace {namespace} --clusterrole {role} --serviceaccount {}:{}",
        installation.namespace,
        installation.service_account,
        role = names::role::ENDPOINT_WORKLOADS
    )
}

fn no_separators(workload: &Workload) -> Result<(), Error> {
    let refuse = |field, value: &str| Err(Error::Separator { field, value: value.to_owned() });
    for service in &workload.network_services {
        if service.contains(',') {
            return refuse("spec.workload.networkServices", service);
        }
    }
    for (key, value) in &workload.labels {
        if key.contains([',', ':', '=']) || value.contains(',') {
            return refuse("spec.workload.labels", &format!("{key}: {value}"));
        }
    }
    Ok(())
}

fn duration(field: &'static str, value: &str) -> Result<Duration, Error> {
    humantime::parse_duration(value)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| Error::Duration { field, value: value.to_owned() })
}

fn owner<K: Resource<DynamicType = ()>>(object: &K, kind: &'static str) -> Result<OwnerReference, Error> {
    object.controller_owner_ref(&()).ok_or_else(|| Error::NoUid { kind, name: object.name_any() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installation() -> Installation {
        Installation {
            mesh_image: "nsm:1".into(),
            namespace: "nsm-operator".into(),
            service_account: "nsm-operator".into(),
        }
    }

    fn config(name: &str, change: impl FnOnce(&mut NSMConfigSpec)) -> NSMConfig {
        let mut config = NSMConfig::new(name, NSMConfigSpec::default());
        config.metadata.uid = Some("u".into());
        change(&mut config.spec);
        config
    }

    #[test]
    fn an_empty_spec_is_a_whole_mesh_with_the_installed_image() {
        let mesh = mesh(&config("default", |_| {}), &installation()).unwrap();
        assert_eq!((mesh.namespace.as_str(), mesh.image.as_str()), ("nsm-system", "nsm:1"));
        let chosen = config("default", |spec| spec.images.mesh = Some("nsm:2".into()));
        assert_eq!(super::mesh(&chosen, &installation()).unwrap().image, "nsm:2");
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_value() {
        for (config, part) in [
            (config("other", |_| {}), "\"other\""),
            (config("default", |spec| spec.namespace = "nsm-operator".into()), "nsm-system"),
            (config("default", |spec| spec.max_token_lifetime = "soon".into()), "\"soon\""),
        ] {
            let error = mesh(&config, &installation()).unwrap_err().to_string();
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn separators_in_labels_of_a_template_are_refused() {
        let mut endpoint =
            NetworkServiceEndpoint::new("nse", nsm_crds::NetworkServiceEndpointSpec::default());
        endpoint.metadata.uid = Some("u".into());
        let workload = Workload { network_services: vec!["s".into()], ..Default::default() };
        endpoint.spec.workload = Some(workload);
        assert!(template(&endpoint).is_ok());
        endpoint.spec.workload.as_mut().unwrap().labels.insert("a:b".into(), "c".into());
        assert!(matches!(template(&endpoint), Err(Error::Separator { .. })));
    }
}
