//! SPIFFE IDs: the names this mesh gives, each built in one place.

use std::fmt;

/// Why a text cannot stand in a SPIFFE ID.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// SPIFFE-ID §2.1.
    #[error("trust domain {0:?} is not allowed: use 1 to 255 of a-z, 0-9, '.', '-' and '_'")]
    TrustDomain(String),
    /// SPIFFE-ID §2.2.
    #[error("{0:?} cannot be part of a SPIFFE ID: use letters, digits, '.', '-' and '_'")]
    Segment(String),
}

/// A SPIFFE trust domain, such as `k8s.nsm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TrustDomain(String);

/// What is known of a program on a host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program<'a> {
    /// The user it runs as.
    pub(super) uid: u32,
    /// The first of its groups.
    pub(super) gid: u32,
    /// Its file.
    pub(super) path: &'a str,
}

/// A SPIFFE ID: `spiffe://<trust domain>/<path>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SpiffeId(String);

// === impl TrustDomain ===

impl TrustDomain {
    pub(super) fn parse(text: &str) -> Result<Self, IdError> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        if (1..=255).contains(&text.len()) && text.chars().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::TrustDomain(text.to_owned()))
        }
    }

    /// The domain's own ID, which its CA certificates carry and bundles are listed by.
    pub(super) fn id(&self) -> SpiffeId {
        SpiffeId(format!("spiffe://{}", self.0))
    }

    /// A program on a host without Kubernetes, by the template that the settings have checked.
    pub(super) fn program(&self, template: &str, program: &Program<'_>) -> Result<SpiffeId, IdError> {
        let (uid, gid) = (program.uid.to_string(), program.gid.to_string());
        let mut segments = Vec::new();
        for segment in template.split('/').filter(|segment| !segment.is_empty()) {
            if segment == "{path}" {
                let parts = program.path.split('/').filter(|part| !part.is_empty());
                segments.extend(parts.map(sanitise));
            } else {
                let filled = segment.replace("{uid}", &uid).replace("{gid}", &gid);
                segments.push(filled.replace("{program}", &sanitise(program.name())));
            }
        }
        self.join(&segments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A pod. Policies can speak of its namespace and account; its connections are its own.
    pub(super) fn workload(&self, namespace: &str, account: &str, pod: &str) -> Result<SpiffeId, IdError> {
        self.join(&["ns", namespace, "sa", account, "pod", pod])
    }

    /// A daemon of the mesh: the same after a restart, and of no other node.
    pub(super) fn daemon(&self, namespace: &str, account: &str, node: &str) -> Result<SpiffeId, IdError> {
        self.join(&["ns", namespace, "sa", account, "node", node])
    }

    /// The authority itself. No pod can be given this ID: those have two segments more.
    pub(super) fn authority(&self, namespace: &str) -> Result<SpiffeId, IdError> {
        self.join(&["ns", namespace, "sa", "nsm-identity-authority"])
    }

    fn join(&self, segments: &[&str]) -> Result<SpiffeId, IdError> {
        let mut id = self.id().0;
        for segment in segments {
            if !is_segment(segment) {
                return Err(IdError::Segment((*segment).to_owned()));
            }
            id.push('/');
            id.push_str(segment);
        }
        Ok(SpiffeId(id))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Program ===

impl Program<'_> {
    fn name(&self) -> &str {
        self.path.rsplit_once('/').map_or(self.path, |(_, name)| name)
    }
}

// === impl SpiffeId ===

impl SpiffeId {
    /// Takes over an ID that stands in a certificate of a trusted CA.
    pub(super) fn from_certificate(uri: String) -> Self {
        Self(uri)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_segment_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

fn is_segment(text: &str) -> bool {
    !text.is_empty() && text != "." && text != ".." && text.chars().all(is_segment_char)
}

/// A file name with everything a SPIFFE ID cannot hold made `_`.
fn sanitise(text: &str) -> String {
    text.chars().map(|c| if is_segment_char(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_trust_domain_is_lower_case_and_has_no_path() {
        assert_eq!(TrustDomain::parse("k8s.nsm").unwrap().id().as_str(), "spiffe://k8s.nsm");
        for text in ["", "K8s", "a/b", "a b", "spiffe://a", &"x".repeat(256)] {
            assert!(TrustDomain::parse(text).is_err(), "{text:?}");
        }
    }

    fn id_of(template: &str, path: &str) -> Result<String, IdError> {
        let domain = TrustDomain::parse("host.nsm").unwrap();
        let program = Program { uid: 7, gid: 9, path };
        domain.program(template, &program).map(|id| id.to_string())
    }

    #[test]
    fn a_program_name_loses_what_an_id_cannot_hold() {
        let id = id_of("/host/uid/{uid}/{program}", "/opt/my prog@2").unwrap();
        assert_eq!(id, "spiffe://host.nsm/host/uid/7/my_prog_2");
        for path in ["", "/", "/a/.", "/a/.."] {
            assert!(id_of("/host/uid/{uid}/{program}", path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_template_is_filled_with_user_group_and_path() {
        let id = |template| id_of(template, "/usr/bin/nsm").unwrap();
        assert_eq!(id("/u-{uid}/g-{gid}"), "spiffe://host.nsm/u-7/g-9");
        assert_eq!(id("/{uid}/{path}"), "spiffe://host.nsm/7/usr/bin/nsm");
        // What the program is called is not read as a template.
        assert_eq!(id_of("/{gid}/{program}", "/a/{uid}").unwrap(), "spiffe://host.nsm/9/_uid_");
    }

    #[test]
    fn the_three_names_on_kubernetes() {
        let domain = TrustDomain::parse("k8s.nsm").unwrap();
        let ids = [
            domain.workload("default", "web", "web-0"),
            domain.daemon("nsm-system", "nsmgr", "node1.example"),
            domain.authority("nsm-system"),
        ];
        assert_eq!(
            ids.map(|id| id.unwrap().to_string()),
            [
                "spiffe://k8s.nsm/ns/default/sa/web/pod/web-0",
                "spiffe://k8s.nsm/ns/nsm-system/sa/nsmgr/node/node1.example",
                "spiffe://k8s.nsm/ns/nsm-system/sa/nsm-identity-authority",
            ]
        );
        assert!(domain.workload("default", "", "web-0").is_err());
        assert!(domain.workload("default", "a/b", "web-0").is_err());
    }

    proptest! {
        #[test]
        fn no_program_name_adds_a_segment(path in ".*") {
            if let Ok(id) = id_of("/host/uid/{uid}/{program}", &path) {
                prop_assert_eq!(id.split('/').count(), 7);
            }
        }
    }
}
