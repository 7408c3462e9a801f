//! Which connections a monitor sees (protocol §1.7).

use super::{Connection, PathSegment, connection::MonitorScopeSelector};

impl MonitorScopeSelector {
    /// Whether the connection is of one of the services (or none is named) and its path contains
    /// the segments side by side (or none is given). Empty fields of a segment match all.
    pub fn selects(&self, connection: &Connection) -> bool {
        let service =
            self.network_services.is_empty() || self.network_services.contains(&connection.network_service);
        let wanted = &self.path_segments;
        service
            && (wanted.is_empty()
                || connection.segments().windows(wanted.len()).any(|run| run.iter().zip(wanted).all(fits)))
    }
}

fn fits((have, want): (&PathSegment, &PathSegment)) -> bool {
    let field = |want: &str, have: &str| want.is_empty() || want == have;
    field(&want.name, &have.name) && field(&want.id, &have.id) && field(&want.token, &have.token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(names: &[&str]) -> Vec<PathSegment> {
        names.iter().map(|name| PathSegment { name: (*name).into(), ..Default::default() }).collect()
    }

    fn selects(path: &[&str], wanted: &[&str]) -> bool {
        let path = super::super::Path { index: 0, path_segments: segments(path) };
        let connection = Connection { path: Some(path), ..Default::default() };
        MonitorScopeSelector { path_segments: segments(wanted), ..Default::default() }.selects(&connection)
    }

    #[test]
    fn segments_must_stand_side_by_side() {
        let path = ["nsc", "nsmgr", "fwd"];
        assert!(selects(&path, &["nsmgr", "fwd"]));
        assert!(selects(&path, &["", "fwd"]));
        assert!(!selects(&path, &["nsc", "fwd"]));
        assert!(!selects(&path, &["nsc", "nsmgr", "fwd", "nse"]));
    }

    #[test]
    fn an_empty_selector_sees_everything_and_a_service_limits_it() {
        assert!(selects(&[], &[]));
        let connection = Connection { network_service: "a".into(), ..Default::default() };
        let by =
            |name: &str| MonitorScopeSelector { network_services: vec![name.into()], ..Default::default() };
        assert!(by("a").selects(&connection));
        assert!(!by("b").selects(&connection));
    }
}
