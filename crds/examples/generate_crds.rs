//! Writes `crds/generated/`: `cargo run -p nsm-crds --example generate_crds`.

use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("generated");
    fs::create_dir_all(&folder)?;
    for manifest in nsm_crds::manifests()? {
        fs::write(folder.join(&manifest.file), &manifest.yaml)?;
        println!("crds/generated/{}", manifest.file);
    }
    Ok(())
}
