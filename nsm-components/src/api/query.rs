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
    use super::*;

    fn endpoint(name: &str, services: &[&str], url: &str) -> NetworkServiceEndpoint {
        NetworkServiceEndpoint {
            name: name.into(),
            network_service_names: services.iter().map(|service| (*service).to_owned()).collect(),
            url: url.into(),
            ..Default::default()
        }
    }

    #[test]
    fn an_endpoint_is_found_by_any_subset_of_its_services_and_a_part_of_its_url() {
        let stored = endpoint("nse", &["a", "b"], "tcp://10.0.0.1:5001");
        assert!(endpoint("", &["b"], "").finds(&stored));
        assert!(endpoint("nse", &[], "10.0.0.1").finds(&stored));
        assert!(!endpoint("", &["a", "c"], "").finds(&stored));
        assert!(!endpoint("other", &[], "").finds(&stored));
        assert!(!endpoint("", &[], "unix").finds(&stored));
    }

    #[test]
    fn a_service_is_found_by_name_and_payload() {
        let stored = NetworkService { name: "a".into(), payload: "IP".into(), ..Default::default() };
        assert!(NetworkService::default().finds(&stored));
        assert!(!NetworkService { payload: "ETHERNET".into(), ..Default::default() }.finds(&stored));
    }
}
