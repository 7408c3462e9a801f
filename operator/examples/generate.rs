//! Writes the generated files under `charts/`: `cargo run -p nsm-operator --example generate`.

use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let charts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts");
    for file in nsm_operator::install::files()? {
        let path = charts.join(file.path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, file.text)?;
        println!("charts/{}", file.path);
    }
    Ok(())
}
