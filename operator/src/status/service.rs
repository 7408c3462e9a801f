//! Status of a `NetworkService`.

use k8s_openapi::jiff::Timestamp;
use nsm_crds::{CONDITION_READY, NetworkServiceStatus, ServiceReason};

use super::{
    conditions::{Verdict, conditions},
    rollup::ServiceRollup,
};

/// The status to be.
pub fn service(
    old: Option<&NetworkServiceStatus>,
    generation: Option<i64>,
    name: &str,
    rollup: ServiceRollup,
    now: Timestamp,
) -> NetworkServiceStatus {
    let before = old.map(|old| old.conditions.as_slice()).unwrap_or_default();
    NetworkServiceStatus {
        endpoints: rollup.endpoints,
        connections: rollup.connections,
        conditions: conditions(before, vec![ready(name, rollup)], generation, now),
    }
}

fn ready(name: &str, rollup: ServiceRollup) -> Verdict {
    let ServiceRollup { endpoints, connections } = rollup;
    let verdict = |status, reason, message: String| Verdict::new(CONDITION_READY, status, reason, message);
    if endpoints == 0 {
        let message = format!(
            "no endpoint of {name} is registered: apply a NetworkServiceEndpoint with spec.workload, or start one"
        );
        return verdict(false, ServiceReason::NoEndpoints, message);
    }
    if connections.down > 0 {
        let message = format!(
            "{} of {} connections are down, see which and why with: kubectl get nsmnode -o yaml",
            connections.down, connections.total
        );
        return verdict(false, ServiceReason::ConnectionsDown, message);
    }
    let message = format!("{endpoints} endpoints are registered, {} connections are up", connections.up);
    verdict(true, ServiceReason::EndpointsAvailable, message)
}

#[cfg(test)]
mod tests {
    use nsm_crds::ConnectionCounts;

    use super::*;

    #[test]
    fn the_reason_says_what_is_missing() {
        let reason = |endpoints, down| {
            let connections = ConnectionCounts { total: 3, up: 3 - down, down };
            let rollup = ServiceRollup { endpoints, connections };
            let status = service(None, Some(1), "finance", rollup, Timestamp::UNIX_EPOCH);
            (status.conditions[0].status.clone(), status.conditions[0].reason.clone())
        };
        assert_eq!(reason(0, 3), ("False".into(), "NoEndpoints".into()));
        assert_eq!(reason(1, 2), ("False".into(), "ConnectionsDown".into()));
        assert_eq!(reason(1, 0), ("True".into(), "EndpointsAvailable".into()));
    }
}
