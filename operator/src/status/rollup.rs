//! Sums over what the nodes report.

use std::collections::BTreeSet;

use nsm_crds::{ConnectionCounts, MeshConnections, NSMNodeState, NSMNodeStateStatus, NodeEndpoint};

/// A service over all nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceRollup {
    /// Endpoints registered for it.
    pub endpoints: i64,
    /// Connections to it.
    pub connections: ConnectionCounts,
}

/// A template's endpoints over all nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TemplateRollup {
    /// Endpoints that are registered.
    pub registered: i64,
    /// Connections to them.
    pub connections: i64,
}

/// All connections. Each node counts those of its own clients, so each counts once.
pub fn mesh<'a>(nodes: impl IntoIterator<Item = &'a NSMNodeState>) -> MeshConnections {
    reports(nodes).fold(MeshConnections::default(), |mut sum, report| {
        sum.counts.total += report.connections.total;
        sum.counts.up += report.connections.up;
        sum.counts.down += report.connections.down;
        sum.nodes_reporting += 1;
        sum
    })
}

/// Endpoints of and connections to a network service.
pub fn network_service<'a>(nodes: impl IntoIterator<Item = &'a NSMNodeState>, name: &str) -> ServiceRollup {
    let mut rollup = ServiceRollup::default();
    let mut endpoints = BTreeSet::new();
    for report in reports(nodes) {
        for service in report.services.iter().filter(|service| service.name == name) {
            rollup.connections.total += service.total;
            rollup.connections.down += service.down;
        }
        let offers =
            |endpoint: &&NodeEndpoint| endpoint.network_services.iter().any(|offered| offered == name);
        endpoints.extend(report.endpoints.iter().filter(offers).map(|endpoint| endpoint.name.as_str()));
    }
    rollup.connections.up = rollup.connections.total - rollup.connections.down;
    rollup.endpoints = i64::try_from(endpoints.len()).unwrap_or(i64::MAX);
    rollup
}

/// Endpoints that are pods of a template, and connections to them.
pub fn template<'a>(
    nodes: impl IntoIterator<Item = &'a NSMNodeState>,
    namespace: &str,
    name: &str,
) -> TemplateRollup {
    let mut names = BTreeSet::new();
    let mut rollup = TemplateRollup::default();
    for endpoint in reports(nodes).flat_map(|report| &report.endpoints) {
        if of_template(endpoint, namespace, name) && names.insert(endpoint.name.as_str()) {
            rollup.registered += 1;
            rollup.connections += endpoint.connections;
        }
    }
    rollup
}

fn reports<'a>(
    nodes: impl IntoIterator<Item = &'a NSMNodeState>,
) -> impl Iterator<Item = &'a NSMNodeStateStatus> {
    nodes.into_iter().filter_map(|node| node.status.as_ref())
}

/// A pod of a Deployment is called `<deployment>-<hash>-<suffix>`; of a long name the hash is cut,
/// and the dash after it. Where no pod is reported, the endpoint's name stands for it: pods of
/// templates register under their own names.
fn of_template(endpoint: &NodeEndpoint, namespace: &str, name: &str) -> bool {
    let pod = endpoint.pod_name.as_deref().unwrap_or(&endpoint.name);
    let rest = pod.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
    endpoint.pod_namespace.as_deref().is_none_or(|own| own == namespace)
        && rest.is_some_and(|rest| !rest.is_empty() && rest.matches('-').count() <= 1)
}

#[cfg(test)]
mod tests {
    use nsm_crds::NodeService;
    use proptest::prelude::*;

    use super::*;

    fn node(up: i64, down: i64, endpoints: &[(&str, &str)]) -> NSMNodeState {
        let endpoint = |(pod, service): &(&str, &str)| NodeEndpoint {
            name: (*pod).into(),
            network_services: vec![(*service).into()],
            pod_namespace: Some("ns".into()),
            pod_name: Some((*pod).into()),
            connections: 2,
        };
        NSMNodeState {
            status: Some(NSMNodeStateStatus {
                connections: ConnectionCounts { total: up + down, up, down },
                services: vec![NodeService { name: "finance".into(), total: up + down, down }],
                endpoints: endpoints.iter().map(endpoint).collect(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_node_without_a_report_counts_nowhere() {
        let nodes = [node(3, 1, &[]), NSMNodeState::default()];
        let sum = mesh(&nodes);
        assert_eq!((sum.nodes_reporting, sum.counts.total, sum.counts.down), (1, 4, 1));
    }

    #[test]
    fn endpoints_are_counted_by_service_and_by_template() {
        let nodes = [
            node(1, 0, &[("gw-5d9c7b7f4d-abcde", "finance"), ("gw-b-5d9c7b7f4d-abcde", "finance")]),
            node(0, 1, &[("gw-5d9c7b7f4d-fghij", "finance"), ("other", "else")]),
        ];
        let service = network_service(&nodes, "finance");
        assert_eq!(service.endpoints, 3);
        assert_eq!(service.connections, ConnectionCounts { total: 2, up: 1, down: 1 });
        assert_eq!(template(&nodes, "ns", "gw"), TemplateRollup { registered: 2, connections: 4 });
        assert_eq!(template(&nodes, "ns", "gw-b").registered, 1);
        assert_eq!(template(&nodes, "other", "gw").registered, 0);
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_the_nodes(counts in prop::collection::vec((0..1000i64, 0..1000i64), 0..50)) {
            let nodes: Vec<NSMNodeState> = counts.iter().map(|(up, down)| node(*up, *down, &[])).collect();
            let sum = mesh(&nodes).counts;
            prop_assert_eq!(sum.up, counts.iter().map(|(up, _)| up).sum::<i64>());
            prop_assert_eq!(sum.total, sum.up + sum.down);
            prop_assert_eq!(network_service(&nodes, "finance").connections, sum);
        }
    }
}
