//! A mesh of which SPIRE knows every process by its program, and gives it the ID of a pod.

use std::{collections::BTreeSet, time::Duration};

use nsm_e2e::{
    mesh::{Mesh, Who},
    wait::until_true,
};
use serde_json::Value;

use crate::{
    configuration::DOMAIN,
    server::{SVID_LIFE, Spire},
    story::LIFE,
};

/// What a [`crate::story::Story`] starts.
pub(crate) const PROCESSES: [Who; 8] = [
    Who::Registry,
    Who::Nsmgr(1),
    Who::Nsmgr(2),
    Who::Forwarder(1),
    Who::Forwarder(2),
    Who::Endpoint(1),
    Who::Client(1),
    Who::Client(2),
];

/// The ID that SPIRE gives to a pod by upstream's template.
pub(crate) fn pod_id(namespace: &str, who: Who) -> String {
    format!("spiffe://{DOMAIN}/ns/{namespace}/pod/{who}")
}

/// The ID of a process where upstream's manifests put it: the mesh has its namespace, and users have
/// theirs.
pub(crate) fn usual_id(who: Who) -> String {
    let users = matches!(who, Who::Endpoint(_) | Who::Client(_));
    pod_id(if users { "demo" } else { "nsm-system" }, who)
}

/// Nodes that run with these IDs, and with settings for every process.
pub(crate) fn begin(everywhere: &[(&str, &str)], id: impl Fn(Who) -> String) -> (Mesh, Spire) {
    // What comes later counts: endpoints in another namespace have to be told who the mesh is.
    let own = [("NSM_TRUSTED_IDS", "spiffe://k8s.nsm/ns/nsm-system")];
    let mut mesh = Mesh::prepare(LIFE, &[&own, everywhere].concat()).unwrap();
    let spire = Spire::start(&mesh);
    spire.knows(&mesh, &PROCESSES.map(|who| (who, id(who))));
    mesh.start_nodes().unwrap();
    (mesh, spire)
}

/// Waits until each process has had this many more SVIDs.
pub(crate) fn renewed(mesh: &Mesh, times: usize) {
    let svids = |who| {
        let log = mesh.process(who).unwrap().log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let new = lines.filter(|line| line["message"] == "new SVID");
        // The same one comes again when something else changes.
        new.filter_map(|line| line["not_after"].as_i64()).collect::<BTreeSet<_>>().len()
    };
    wait_for("SVIDs", times, PROCESSES.map(svids), svids);
}

/// Does something and waits until each process has heard of it from SPIRE: in the second message from
/// then on, as one may have been on its way.
pub(crate) fn heard(mesh: &Mesh, what: impl FnOnce()) {
    let heard = |who| mesh.process(who).unwrap().log().matches("new SVID").count();
    let before = PROCESSES.map(heard);
    what();
    wait_for("messages of SPIRE", 2, before, heard);
}

fn wait_for(of: &str, times: usize, before: [usize; 8], count: impl Fn(Who) -> usize) {
    let limit = Duration::from_secs(u64::from(SVID_LIFE)) * u32::try_from(times).unwrap();
    for (who, before) in PROCESSES.into_iter().zip(before) {
        until_true(&format!("{times} more {of} for {who}"), limit, || count(who) >= before + times).unwrap();
    }
}
