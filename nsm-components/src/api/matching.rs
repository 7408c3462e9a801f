//! Which endpoints a client may use: the matches of a network service (protocol §5).

use std::collections::BTreeMap;

use super::registry::{NetworkService, NetworkServiceEndpoint};

type Labels = BTreeMap<String, String>;

/// The endpoints that `service` lets a client with these labels use, in the order of `endpoints`.
/// One that several routes pick stands there once a route: it gets more turns.
pub fn endpoints<'a>(
    client: &Labels,
    service: &NetworkService,
    endpoints: &'a [NetworkServiceEndpoint],
) -> Vec<&'a NetworkServiceEndpoint> {
    if service.matches.is_empty() {
        return endpoints.iter().collect();
    }
    for entry in &service.matches {
        if !is_subset(client, &entry.source_selector, client) {
            continue;
        }
        let mut found = Vec::new();
        for route in &entry.routes {
            let picked = endpoints.iter().filter(|endpoint| {
                is_subset(service_labels(endpoint, &service.name), &route.destination_selector, client)
            });
            found.extend(picked);
        }
        if found.is_empty() && entry.fallthrough {
            continue;
        }
        if found.is_empty() && entry.routes.is_empty() && entry.metadata.is_some() {
            return endpoints.iter().collect();
        }
        return found;
    }
    Vec::new()
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

/// Whether `have` has all that `want` asks for; an absent key reads as the empty value.
fn is_subset(have: &Labels, want: &Labels, variables: &Labels) -> bool {
    have.len() >= want.len()
        && want.iter().all(|(key, wanted)| {
            let value = have.get(key).map_or("", String::as_str);
            value == wanted || render(wanted, variables).is_some_and(|wanted| value == wanted)
        })
}

/// The part of Go's text/template that manifests use: `{{.key}}` and `{{ index . "key" }}`.
/// A missing key renders as `<no value>`; what cannot be read is no template.
fn render(template: &str, variables: &Labels) -> Option<String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, after) = after.split_once("}}")?;
        text.push_str(before);
        let action = action.trim();
        let key = match action.strip_prefix('.') {
            Some(key) if !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '_') => key,
            Some(_) => return None,
            None => action.strip_prefix("index . ")?.trim().strip_prefix('"')?.strip_suffix('"')?,
        };
        text.push_str(variables.get(key).map_or("<no value>", String::as_str));
        rest = after;
    }
    text.push_str(rest);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::super::registry::{Destination, Match, Metadata, NetworkServiceLabels};
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn endpoint(name: &str, pairs: &[(&str, &str)]) -> NetworkServiceEndpoint {
        let labels = NetworkServiceLabels { labels: labels(pairs) };
        NetworkServiceEndpoint {
            name: name.into(),
            network_service_labels: BTreeMap::from([("ns".to_owned(), labels)]),
            ..Default::default()
        }
    }

    fn entry(source: &[(&str, &str)], routes: &[&[(&str, &str)]]) -> Match {
        let routes = routes
            .iter()
            .map(|pairs| Destination { destination_selector: labels(pairs), ..Default::default() })
            .collect();
        Match { source_selector: labels(source), routes, ..Default::default() }
    }

    fn names(matches: Vec<Match>, client: &[(&str, &str)]) -> Vec<String> {
        let service = NetworkService { name: "ns".into(), matches, ..Default::default() };
        let all = [endpoint("a", &[("app", "a"), ("nodeName", "n1")]), endpoint("b", &[("app", "b")])];
        endpoints(&labels(client), &service, &all).into_iter().map(|found| found.name.clone()).collect()
    }

    #[test]
    fn without_matches_every_endpoint_will_do() {
        assert_eq!(names(vec![], &[]), ["a", "b"]);
    }

    #[test]
    fn the_first_match_for_the_client_decides_even_when_it_finds_nothing() {
        let first = entry(&[("x", "1")], &[&[("app", "none")]]);
        let second = entry(&[], &[&[("app", "b")]]);
        assert_eq!(names(vec![first.clone(), second.clone()], &[("x", "1")]), [""; 0]);
        assert_eq!(names(vec![first.clone(), second.clone()], &[]), ["b"]);
        let falls_through = Match { fallthrough: true, ..first };
        assert_eq!(names(vec![falls_through, second], &[("x", "1")]), ["b"]);
    }

    #[test]
    fn metadata_without_routes_lets_every_endpoint_through_and_nothing_at_all_lets_none() {
        let bare = entry(&[], &[]);
        assert_eq!(names(vec![bare.clone()], &[]), [""; 0]);
        assert_eq!(names(vec![Match { metadata: Some(Metadata::default()), ..bare }], &[]), ["a", "b"]);
    }

    #[test]
    fn an_endpoint_that_two_routes_pick_gets_two_turns() {
        assert_eq!(names(vec![entry(&[], &[&[("app", "a")], &[]])], &[]), ["a", "a", "b"]);
    }

    #[test]
    fn templates_put_the_clients_labels_in() {
        for template in ["{{.nodeName}}", "{{ .nodeName }}", "{{ index . \"nodeName\" }}"] {
            assert_eq!(names(vec![entry(&[], &[&[("nodeName", template)]])], &[("nodeName", "n1")]), ["a"]);
        }
        assert_eq!(render("{{.x}}", &Labels::new()).as_deref(), Some("<no value>"));
        assert_eq!(render("{{if}}", &Labels::new()), None);
    }

    #[test]
    fn forwarders_are_asked_for_point_to_point_unless_the_match_says_otherwise() {
        let all = [endpoint("a", &[("p2p", "true")]), endpoint("b", &[("fast", "yes")])];
        let pick = |matches| {
            let service = NetworkService { matches, ..Default::default() };
            let found = forwarders(&Labels::new(), &service, "ns", &all);
            found.into_iter().map(|forwarder| forwarder.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(pick(vec![]), ["a", "b"]);
        assert_eq!(pick(vec![entry(&[], &[])]), ["a"]);
        let fast = Metadata { labels: labels(&[("fast", "yes")]) };
        assert_eq!(pick(vec![Match { metadata: Some(fast), ..entry(&[], &[]) }]), ["b"]);
    }
}
