//! Which processes may speak for others: pass their messages on, offer forwarders, register
//! addresses that others shall call. Upstream lets everybody; here it is the mesh's own processes.

/// SPIFFE IDs that are trusted with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Everybody, as upstream.
    Everybody,
    /// These IDs and those below them: parts of an ID count whole.
    Prefixes(Vec<String>),
    /// Node daemons: IDs that begin with this and name a node instead of a pod.
    NodeDaemons(String),
}

/// How SPIFFE IDs begin.
pub(super) const SCHEME: &str = "spiffe://";

/// Whether a SPIFFE ID is another one or lies below it: its first parts are that one, whole ones.
pub(super) fn lies_below(above: &str, id: &str) -> bool {
    let above = above.trim_end_matches('/');
    let both = above.strip_prefix(SCHEME).zip(id.strip_prefix(SCHEME));
    let rest = both.and_then(|(above, id)| id.strip_prefix(above));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What stands for everybody in a list of prefixes.
const EVERYBODY: &str = "*";

/// Part of an ID that says that its owner is the same on a node, whatever its pod is called.
const NODE: &str = "/node/";

impl Trust {
    /// What `NSM_TRUSTED_IDS` lists. Without it the mesh's processes are known by the own ID:
    ///
    /// * `spiffe://domain/ns/<namespace>/sa/<account>/node/<node>`: node daemons of this namespace,
    /// * `spiffe://domain/ns/<namespace>/…`: everything in this namespace,
    /// * `spiffe://domain/host/uid/<user>/…`: every program of this user.
    pub fn new(listed: &[String], own_id: &str) -> Self {
        if listed.iter().any(|prefix| prefix == EVERYBODY) {
            return Self::Everybody;
        }
        if !listed.is_empty() {
            return Self::Prefixes(listed.to_vec());
        }
        let parts: Vec<&str> = own_id.split('/').collect();
        // "spiffe:", "", domain, then the path.
        let start = |count: usize| {
            let parts = parts.get(..3 + count).unwrap_or(&parts);
            parts.join("/") + "/"
        };
        match parts.get(3..) {
            Some(["ns", _, "sa", ..]) => Self::NodeDaemons(start(2)),
            Some(["ns", _, ..]) => Self::Prefixes(vec![start(2)]),
            Some(["host", "uid", _, ..]) => Self::Prefixes(vec![start(3)]),
            // An ID of another form says nothing of its neighbours: only the process itself.
            _ => Self::Prefixes(vec![own_id.to_owned()]),
        }
    }

    /// Whether the process of this ID may speak for others.
    pub fn trusts(&self, id: &str) -> bool {
        match self {
            Self::Everybody => true,
            Self::Prefixes(prefixes) => prefixes.iter().any(|prefix| lies_below(prefix, id)),
            Self::NodeDaemons(prefix) => id.starts_with(prefix.as_str()) && id[prefix.len()..].contains(NODE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_kubernetes_the_node_daemons_of_the_meshs_namespace_are_trusted_and_no_pod() {
        for own in
            ["spiffe://d/ns/nsm-system/sa/nsmgr/node/n1", "spiffe://d/ns/nsm-system/sa/registry/pod/r-0"]
        {
            let trust = Trust::new(&[], own);
            assert!(trust.trusts("spiffe://d/ns/nsm-system/sa/forwarder/node/n2"));
            for stranger in [
                "spiffe://d/ns/nsm-system/sa/x/pod/y",
                "spiffe://d/ns/demo/sa/forwarder/node/n2",
                "spiffe://other/ns/nsm-system/sa/forwarder/node/n2",
                "spiffe://d/ns/nsm-system-2/sa/forwarder/node/n2",
            ] {
                assert!(!trust.trusts(stranger), "{stranger}");
            }
        }
    }

    #[test]
    fn by_ids_of_pods_the_meshs_namespace_is_trusted_and_no_other() {
        let trust = Trust::new(&[], "spiffe://k8s.nsm/ns/nsm-system/pod/nsmgr-x2f4q");
        assert!(trust.trusts("spiffe://k8s.nsm/ns/nsm-system/pod/forwarder-8k2vd"));
        for stranger in [
            "spiffe://k8s.nsm/ns/demo/pod/forwarder-8k2vd",
            "spiffe://k8s.nsm/ns/nsm-system-2/pod/nsmgr-x2f4q",
            "spiffe://other/ns/nsm-system/pod/nsmgr-x2f4q",
        ] {
            assert!(!trust.trusts(stranger), "{stranger}");
        }
    }

    #[test]
    fn on_a_host_programs_of_the_same_user_trust_each_other() {
        let trust = Trust::new(&[], "spiffe://host.nsm/host/uid/0/nsmgr");
        assert!(trust.trusts("spiffe://host.nsm/host/uid/0/forwarder"));
        assert!(!trust.trusts("spiffe://host.nsm/host/uid/1000/forwarder"));
    }

    #[test]
    fn a_list_counts_instead_and_a_star_trusts_everybody() {
        let list = |text: &str| Trust::new(&[text.to_owned()], "spiffe://d/x");
        assert!(list("spiffe://d/ns/a/").trusts("spiffe://d/ns/a/b"));
        assert!(!list("spiffe://d/ns/a/").trusts("spiffe://d/x"));
        assert!(list("spiffe://d/ns/a").trusts("spiffe://d/ns/a/b"));
        assert!(list("*").trusts("anybody"));
        assert!(!Trust::new(&[], "spiffe://d/odd").trusts("spiffe://d/ns/a"));
    }

    #[test]
    fn parts_of_an_id_count_whole() {
        let trust = Trust::new(&["spiffe://d/nsmgr".to_owned()], "spiffe://d/x");
        assert!(trust.trusts("spiffe://d/nsmgr") && trust.trusts("spiffe://d/nsmgr/n1"));
        assert!(!trust.trusts("spiffe://d/nsmgr-x") && !trust.trusts("spiffe://d"));
        assert!(!Trust::new(&[], "spiffe://d/nse").trusts("spiffe://d/nse-2"));
        for odd in ["", "/", "spiffe://", "spiffe:", "d", "nsmgr"] {
            assert!(!Trust::new(&[odd.to_owned()], "spiffe://d/x").trusts("spiffe://d/nsmgr"), "{odd}");
        }
    }
}
