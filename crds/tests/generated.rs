//! The committed YAML is what the types say.

use std::{fs, path::Path};

#[test]
fn generated_yaml_is_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("generated");
    let manifests = nsm_crds::manifests().unwrap();
    for manifest in &manifests {
        let committed = fs::read_to_string(folder.join(&manifest.file)).unwrap_or_default();
        assert!(
            committed == manifest.yaml,
            "crds/generated/{} is not what the types say: run `cargo run -p nsm-crds --example generate_crds`",
            manifest.file
        );
    }
    assert_eq!(fs::read_dir(folder).unwrap().count(), manifests.len(), "crds/generated has a stale file");
}

#[test]
fn kinds_keep_the_names_that_users_type() {
    let names: Vec<(String, Option<Vec<String>>, String)> = nsm_crds::all()
        .into_iter()
        .map(|crd| (crd.spec.names.plural, crd.spec.names.short_names, crd.spec.scope))
        .collect();
    let short = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(
        names,
        [
            ("nsmconfigs".into(), short(&["nsm"]), "Cluster".into()),
            ("nsmnodestates".into(), short(&["nsmnode"]), "Cluster".into()),
            ("networkservices".into(), short(&["netsvc", "netsvcs"]), "Namespaced".into()),
            ("networkserviceendpoints".into(), short(&["nse", "nses"]), "Namespaced".into()),
        ]
    );
}
