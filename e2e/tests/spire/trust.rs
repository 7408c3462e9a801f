//! Whom the mesh's processes know by the IDs that SPIRE gives.

use nsm_e2e::mesh::{START, Who};

use crate::{
    server::may_run,
    stage::{begin, pod_id, usual_id},
    story::Story,
};

/// All are where upstream's manifests put them but the forwarder of node 2.
fn one_forwarder_apart(who: Who) -> String {
    if who == Who::Forwarder(2) { pod_id("infra", who) } else { usual_id(who) }
}

#[test]
fn whoever_is_in_another_namespace_than_the_mesh_may_not_be_its_forwarder() {
    if !may_run() {
        return;
    }
    let (mesh, _spire) = begin(&[], one_forwarder_apart);
    let said = mesh.says(Who::Forwarder(2), "may not offer forwarder", START).unwrap();
    assert!(said.contains(&one_forwarder_apart(Who::Forwarder(2))), "{said}");
}

#[test]
fn processes_of_a_mesh_in_two_namespaces_know_each_other_by_what_is_set() {
    if !may_run() {
        return;
    }
    let own = "spiffe://k8s.nsm/ns/nsm-system,spiffe://k8s.nsm/ns/infra";
    let (mesh, _spire) = begin(&[("NSM_TRUSTED_IDS", own)], one_forwarder_apart);
    // Both clients are connected, through both forwarders.
    Story::begin_in(mesh);
}
