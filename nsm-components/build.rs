//! Generates the wire types from `proto/`: no protoc is needed.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    if std::env::var_os("CARGO_FEATURE_MESH").is_none() {
        return Ok(());
    }
    // A static program relocates itself: packed, the list for it is a hundredth as long, and each process
    // reads all of it. Linkers that cannot do it go on with a warning.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    let files = [
        "nsm/networkservice.proto",
        "nsm/registry.proto",
        "nsm/ipam.proto",
        "nsm/identity.proto",
        "nsm/node.proto",
        "spiffe/workload.proto",
    ];
    let files = files.map(|file| root.join(file));
    let descriptors = protox::compile(files, [root.join("nsm"), root.join("spiffe")])?;
    // Ordered maps make encodings, tests and log lines repeatable.
    tonic_prost_build::configure().btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
