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
    // Functions of the same code become one: less text to hold. Neither our libraries nor the C beneath
    // the cryptography tell functions by their addresses, which is all that could notice. The linker that
    // rustc brings for this target can do it; others would refuse the flag.
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if release && std::env::var("TARGET").is_ok_and(|target| target == "x86_64-unknown-linux-gnu") {
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    }
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
