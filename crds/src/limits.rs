//! Bounds of a node's report, so that it stays below 18 KiB however many connections a node has.

use crate::{NSMNodeStateStatus, Truncated};

/// Most services in one `NSMNodeState`.
pub const MAX_SERVICES: usize = 64;

/// Most unhealthy connections in one `NSMNodeState`.
pub const MAX_UNHEALTHY: usize = 32;

/// Most endpoints in one `NSMNodeState`.
pub const MAX_ENDPOINTS: usize = 64;

/// Most forwarders in one `NSMNodeState`.
pub const MAX_FORWARDERS: usize = 8;

/// Most characters of an error text in one `NSMNodeState`.
pub const MAX_ERROR_CHARS: usize = 200;

impl NSMNodeStateStatus {
    /// The same report within the bounds of the schema: of services the worst stay, of unhealthy
    /// connections those that are so for longest, of endpoints the first by name, of forwarders those
    /// that lost most. What was left off the first three is counted in `truncated`; entries come out in a stable order.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.services
            .sort_by(|a, b| (b.down, b.total).cmp(&(a.down, a.total)).then_with(|| a.name.cmp(&b.name)));
        self.unhealthy.sort_by(|a, b| (&a.since.0, &a.id).cmp(&(&b.since.0, &b.id)));
        self.endpoints.sort_by(|a, b| a.name.cmp(&b.name));
        self.truncated = Truncated {
            services: cut(&mut self.services, MAX_SERVICES),
            unhealthy: cut(&mut self.unhealthy, MAX_UNHEALTHY),
            endpoints: cut(&mut self.endpoints, MAX_ENDPOINTS),
        };
        self.adoption.sort_by(|a, b| (b.lost, &a.forwarder).cmp(&(a.lost, &b.forwarder)));
        self.adoption.truncate(MAX_FORWARDERS);
        for connection in &mut self.unhealthy {
            if let Some((end, _)) = connection.last_error.char_indices().nth(MAX_ERROR_CHARS) {
                connection.last_error.truncate(end);
            }
        }
        self
    }
}

fn cut<T>(items: &mut Vec<T>, most: usize) -> i64 {
    let left_off = items.len().saturating_sub(most);
    items.truncate(most);
    i64::try_from(left_off).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::{MAX_ENDPOINTS, MAX_SERVICES, MAX_UNHEALTHY, NSMNodeStateStatus, NodeEndpoint, NodeService};

    proptest! {
        #[test]
        fn a_bounded_report_counts_what_it_left_off(services in 0..200usize, endpoints in 0..200usize) {
            let report = NSMNodeStateStatus {
                services: (0..services).map(|n| service(n, n % 3)).collect(),
                endpoints: (0..endpoints).map(|n| NodeEndpoint { name: n.to_string(), ..Default::default() }).collect(),
                ..Default::default()
            }
            .bounded();
            prop_assert!(report.services.len() <= MAX_SERVICES && report.endpoints.len() <= MAX_ENDPOINTS);
            prop_assert_eq!(report.services.len() + usize::try_from(report.truncated.services).unwrap(), services);
            prop_assert_eq!(report.endpoints.len() + usize::try_from(report.truncated.endpoints).unwrap(), endpoints);
            prop_assert_eq!(report.clone().bounded().services, report.services);
        }
    }

    #[test]
    fn the_worst_services_stay_and_the_report_stays_small() {
        let long = "x".repeat(63);
        let report = NSMNodeStateStatus {
            services: (0..100).map(|n| service(n, usize::from(n == 99))).collect(),
            unhealthy: (0..100)
                .map(|n| crate::UnhealthyConnection {
                    id: format!("{n:036}"),
                    network_service: long.clone(),
                    client: long.clone(),
                    endpoint: long.clone(),
                    state: crate::ConnectionState::Down,
                    since: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                        k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
                    ),
                    last_error: "ä".repeat(5_000),
                })
                .collect(),
            endpoints: (0..100)
                .map(|n| NodeEndpoint {
                    name: format!("{n:063}"),
                    network_services: vec![long.clone()],
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }
        .bounded();
        assert_eq!(report.services[0].name, "s99");
        assert_eq!(report.unhealthy.len(), MAX_UNHEALTHY);
        assert!(serde_json::to_vec(&report).unwrap().len() < 48 * 1024);
    }

    fn service(n: usize, down: usize) -> NodeService {
        NodeService { name: format!("s{n}"), total: 5, down: down.try_into().unwrap() }
    }
}
