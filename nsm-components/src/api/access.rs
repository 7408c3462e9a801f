//! Who may connect to a network service and who may serve it, as the service itself says.
//!
//! An extension of ours: upstream does not know the lists and everybody may do both. A service without
//! them is as open here; one that has them means them, so no setting turns them off.

use super::{
    registry::NetworkService,
    trust::{SCHEME, lies_below},
};

/// What somebody wants of a network service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// To connect to it.
    Connect,
    /// To serve it.
    Serve,
}

/// A network service says that somebody may not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{id} may not {what} network service {service}: it allows {}", .allowed.join(", "))]
pub struct NotAllowed {
    /// SPIFFE ID of who asked.
    pub id: String,
    /// What for.
    pub what: &'static str,
    /// Of which service.
    pub service: String,
    /// Who may.
    pub allowed: Vec<String>,
}

impl NetworkService {
    /// Whether the process of this SPIFFE ID may do this, in a mesh of this trust domain.
    pub fn allows(&self, what: Use, id: &str, domain: &str) -> Result<(), NotAllowed> {
        let Some(rules) = &self.access else { return Ok(()) };
        let (allowed, what) = match what {
            Use::Connect => (&rules.clients, "connect to"),
            Use::Serve => (&rules.endpoints, "serve"),
        };
        if allowed.is_empty() || allowed.iter().any(|rule| covers(rule, id, domain)) {
            return Ok(());
        }
        Err(NotAllowed { id: id.into(), what, service: self.name.clone(), allowed: allowed.clone() })
    }
}

/// Whether an ID is the one that a rule names or lies below it. A rule that is no SPIFFE ID is the
/// path of one in the mesh's own trust domain.
fn covers(rule: &str, id: &str, domain: &str) -> bool {
    if rule.starts_with(SCHEME) {
        return lies_below(rule, id);
    }
    let rule = rule.trim_matches('/');
    !rule.is_empty() && lies_below(&format!("{SCHEME}{domain}/{rule}"), id)
}

/// The trust domain of a SPIFFE ID: `d` for `spiffe://d/path` and for `spiffe://d`.
pub fn domain(id: &str) -> Option<&str> {
    id.strip_prefix(SCHEME)?.split('/').next().filter(|domain| !domain.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::registry::AccessRules;

    #[test]
    fn a_rule_names_a_part_of_the_ids_up_to_the_end_of_one_of_their_parts() {
        let pod = "spiffe://d/ns/demo/sa/default/pod/a";
        for rule in [
            "ns",
            "ns/demo",
            "/ns/demo/",
            "ns/demo/sa/default",
            "ns/demo/sa/default/pod/a",
            "spiffe://d/ns/demo",
            "spiffe://d/ns/demo/",
            "spiffe://d",
            "spiffe://d/ns/demo/sa/default/pod/a",
        ] {
            assert!(covers(rule, pod, "d"), "{rule}");
        }
        for rule in [
            "",
            "/",
            "*",
            "spiffe://",
            "ns/dem",
            "ns/demo-2",
            "ns/demo/sa/default/pod/a/b",
            "demo",
            "sa/default",
            "d/ns/demo",
            "spiffe://d/ns/dem",
            "spiffe://e/ns/demo",
            "https://d/ns/demo",
        ] {
            assert!(!covers(rule, pod, "d"), "{rule}");
        }
        assert!(!covers("ns/demo", pod, "e"), "a path counts in the mesh's own trust domain alone");
        assert!(!covers("ns/demo", "spiffe://dd/ns/demo", "d"));
        assert!(!covers("ns/demo", "ns/demo", "d"), "who has no SPIFFE ID is nobody");
    }

    #[test]
    fn a_service_without_a_list_is_open_and_each_list_is_for_its_own_use() {
        let (friend, stranger) = ("spiffe://d/ns/friends/pod/a", "spiffe://d/ns/other/pod/a");
        let mut service = NetworkService { name: "finance".into(), ..Default::default() };
        assert_eq!(service.allows(Use::Connect, stranger, "d"), Ok(()));
        service.access = Some(AccessRules { clients: vec!["ns/friends".into()], endpoints: Vec::new() });
        assert_eq!(service.allows(Use::Connect, friend, "d"), Ok(()));
        assert_eq!(service.allows(Use::Serve, stranger, "d"), Ok(()));
        let refused = service.allows(Use::Connect, stranger, "d").unwrap_err().to_string();
        assert_eq!(
            refused,
            "spiffe://d/ns/other/pod/a may not connect to network service finance: it allows ns/friends"
        );
    }

    #[test]
    fn the_trust_domain_is_the_first_part_of_an_id() {
        assert_eq!(domain("spiffe://example.org/ns/a"), Some("example.org"));
        assert_eq!(domain("spiffe://example.org"), Some("example.org"));
        assert_eq!((domain("nobody"), domain("spiffe:///ns/a")), (None, None));
    }
}
