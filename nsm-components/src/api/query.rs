//! Which stored objects a Find returns (protocol §4.7).

use super::registry::{NetworkService, NetworkServiceEndpoint};

impl NetworkService {
    /// Whether `stored` is what this query looks for; empty fields match all.
    pub fn finds(&self, stored: &Self) -> bool {
        (self.name.is_empty() || self.name == stored.name)
            && (self.payload.is_empty() || self.payload == stored.payload)
            && (self.matches.is_empty() || self.matches == stored.matches)
    }
}

impl NetworkServiceEndpoint {
    /// Whether `stored` is what this query looks for; empty fields match all. The URL is a part
    /// of the stored one.
    pub fn finds(&self, stored: &Self) -> bool {
        (self.name.is_empty() || self.name == stored.name)
            && self.network_service_names.iter().all(|name| stored.network_service_names.contains(name))
            && stored.url.contains(&self.url)
            && self.expiration_time.is_none_or(|wanted| {
                stored.expiration_time.is_some_and(|time| time.seconds == wanted.seconds)
            })
            && self.network_service_labels.iter().all(|(service, wanted)| {
                stored.network_service_labels.get(service).is_some_and(|have| {
                    wanted.labels.iter().all(|(key, value)| have.labels.get(key) == Some(value))
                })
            })
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;
    use crate::api::registry::{Match, NetworkServiceLabels};

    fn service(name: &str, payload: &str, matches: &[bool]) -> NetworkService {
        let matches =
            matches.iter().map(|fallthrough| Match { fallthrough: *fallthrough, ..Default::default() });
        NetworkService {
            name: name.into(),
            payload: payload.into(),
            matches: matches.collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_service_is_found_by_each_field_that_the_query_names() {
        let stored = service("a", "IP", &[true, false]);
        for (query, found) in [
            (service("", "", &[]), true),
            (service("a", "IP", &[true, false]), true),
            (service("b", "", &[]), false),
            (service("A", "", &[]), false),
            (service("", "ETHERNET", &[]), false),
            (service("", "IP", &[]), true),
            (service("", "", &[true]), false),
            (service("", "", &[false, true]), false),
            (service("", "", &[true, false]), true),
        ] {
            assert_eq!(query.finds(&stored), found, "{query:?}");
        }
        let owner = NetworkService { path_ids: vec!["spiffe://d/x".into()], ..service("a", "", &[]) };
        assert!(owner.finds(&stored), "whose it is, is no part of a query");
    }

    /// By name, services, URL, seconds of its end, and labels as `service=key:value`.
    fn endpoint(
        name: &str,
        services: &str,
        url: &str,
        end: Option<i64>,
        labels: &str,
    ) -> NetworkServiceEndpoint {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let mut stored = NetworkServiceEndpoint {
            name: name.into(),
            network_service_names: words(services),
            url: url.into(),
            expiration_time: end.map(|seconds| Timestamp { seconds, nanos: 7 }),
            ..Default::default()
        };
        for label in words(labels) {
            let (service, label) = label.split_once('=').unwrap();
            let of: &mut NetworkServiceLabels =
                stored.network_service_labels.entry(service.to_owned()).or_default();
            of.labels.extend(label.split_once(':').map(|(key, value)| (key.to_owned(), value.to_owned())));
        }
        stored
    }

    #[test]
    fn an_endpoint_is_found_by_each_field_that_the_query_names() {
        let stored =
            endpoint("nse", "a b", "tcp://10.0.0.1:5001", Some(60), "a=app:gateway a=zone:1 b=app:firewall");
        for (query, found) in [
            (endpoint("", "", "", None, ""), true),
            (endpoint("nse", "a b", "tcp://10.0.0.1:5001", Some(60), "a=app:gateway"), true),
            (endpoint("other", "", "", None, ""), false),
            (endpoint("ns", "", "", None, ""), false),
            // Services: a subset, in any order.
            (endpoint("", "b", "", None, ""), true),
            (endpoint("", "b a", "", None, ""), true),
            (endpoint("", "a c", "", None, ""), false),
            // The URL: a part of the stored one.
            (endpoint("", "", "10.0.0.1", None, ""), true),
            (endpoint("", "", "unix", None, ""), false),
            (endpoint("", "", "tcp://10.0.0.1:5001/", None, ""), false),
            // The end: to the second.
            (endpoint("", "", "", Some(60), ""), true),
            (endpoint("", "", "", Some(61), ""), false),
            // Labels: of each service in the query, those in the query.
            (endpoint("", "", "", None, "a=app:gateway b=app:firewall"), true),
            (endpoint("", "", "", None, "a=zone:1 a=app:gateway"), true),
            (endpoint("", "", "", None, "a=app:firewall"), false),
            (endpoint("", "", "", None, "b=zone:1"), false),
            (endpoint("", "", "", None, "c="), false),
            (endpoint("", "", "", None, "a="), true),
        ] {
            assert_eq!(query.finds(&stored), found, "{query:?}");
        }
        let unending = endpoint("nse", "a", "", None, "");
        assert!(!endpoint("", "", "", Some(60), "").finds(&unending), "it has no end");
    }
}
