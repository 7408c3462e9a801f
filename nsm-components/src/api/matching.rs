//! Which endpoints a client may use: the matches of a network service (protocol §5).

mod template;

use std::collections::BTreeMap;

use self::template::render;
use super::registry::{NetworkService, NetworkServiceEndpoint};

type Labels = BTreeMap<String, String>;

/// The endpoints that `service` lets a client with these labels use, in the order of `endpoints`.
/// One that several routes pick stands there once a route: it gets more turns.
pub fn endpoints<'a>(
    client: &Labels,
    service: &NetworkService,
    endpoints: impl IntoIterator<Item = &'a NetworkServiceEndpoint, IntoIter: Clone>,
) -> Vec<&'a NetworkServiceEndpoint> {
    let endpoints = endpoints.into_iter();
    if service.matches.is_empty() {
        return endpoints.collect();
    }
    for entry in &service.matches {
        if !is_subset(client, &entry.source_selector, client) {
            continue;
        }
        let mut found = Vec::new();
        for route in &entry.routes {
            let picked = endpoints.clone().filter(|endpoint| {
                is_subset(service_labels(endpoint, &service.name), &route.destination_selector, client)
            });
            found.extend(picked);
        }
        if found.is_empty() && entry.fallthrough {
            continue;
        }
        if found.is_empty() && entry.routes.is_empty() && entry.metadata.is_some() {
            return endpoints.collect();
        }
        return found;
    }
    Vec::new()
}

/// Whether an endpoint of the service is still one that the client may use. What other endpoints
/// there are plays no part: one that a later match lets in stays good when an earlier match finds
/// others.
pub fn fits(client: &Labels, service: &NetworkService, endpoint: &NetworkServiceEndpoint) -> bool {
    !endpoints(client, service, [endpoint]).is_empty()
}

/// The forwarders a client may use. Only matches of `service` with the client's labels count;
/// what they require stands in their metadata, `p2p: "true"` when they say nothing.
pub fn forwarders<'a>(
    client: &Labels,
    service: &NetworkService,
    forwarder_service: &str,
    forwarders: &'a [NetworkServiceEndpoint],
) -> Vec<&'a NetworkServiceEndpoint> {
    if service.matches.is_empty() {
        return forwarders.iter().collect();
    }
    let p2p = Labels::from([("p2p".to_owned(), "true".to_owned())]);
    for entry in &service.matches {
        if !is_subset(client, &entry.source_selector, client) {
            continue;
        }
        let required =
            entry.metadata.as_ref().map(|metadata| &metadata.labels).filter(|labels| !labels.is_empty());
        let required = required.unwrap_or(&p2p);
        let found: Vec<_> = forwarders
            .iter()
            .filter(|forwarder| is_subset(service_labels(forwarder, forwarder_service), required, client))
            .collect();
        if !found.is_empty() || !entry.fallthrough {
            return found;
        }
    }
    Vec::new()
}

fn service_labels<'a>(endpoint: &'a NetworkServiceEndpoint, service: &str) -> &'a Labels {
    static NONE: Labels = Labels::new();
    endpoint.network_service_labels.get(service).map_or(&NONE, |labels| &labels.labels)
}

/// Whether `have` has all that `want` asks for; an absent key reads as the empty value. What is
/// wanted counts as it is written and, if it is a template, with the client's labels in it.
fn is_subset(have: &Labels, want: &Labels, variables: &Labels) -> bool {
    have.len() >= want.len()
        && want.iter().all(|(key, wanted)| {
            let value = have.get(key).map_or("", String::as_str);
            value == wanted || render(wanted, variables).is_some_and(|wanted| value == wanted)
        })
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod upstream_tests;
