//! Packs programs into an OCI image archive, without Docker: one layer, one manifest, one tar
//! (OCI Image Format Specification, "Image Layout"). The same input gives the same bytes.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// Packs programs into an OCI image archive.
///
/// For example: oci-image --name nsm.local/nsm:dev --file target/release/nsm=/nsm --entrypoint /nsm
/// --output nsm.tar
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Name and tag of the image; write a host part, or containerd puts docker.io before it.
    #[arg(long)]
    name: String,
    /// Archive to write.
    #[arg(long)]
    output: PathBuf,
    /// A file and where it goes: FILE=/PATH. May be repeated.
    #[arg(long = "file", value_parser = pair)]
    files: Vec<(String, String)>,
    /// A symbolic link and what it points to: /PATH=TARGET. May be repeated.
    #[arg(long = "symlink", value_parser = pair)]
    symlinks: Vec<(String, String)>,
    /// The program to start.
    #[arg(long)]
    entrypoint: Option<String>,
    /// User the program runs as: UID:GID.
    #[arg(long, default_value = "0:0")]
    user: String,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (left, right) = text.split_once('=').ok_or("write it as LEFT=RIGHT")?;
    Ok((left.to_owned(), right.to_owned()))
}

/// Something addressed by its content.
struct Blob {
    media_type: &'static str,
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        let digest = format!("{:x}", Sha256::digest(&bytes));
        Self { media_type, digest, bytes }
    }

    fn json(media_type: &'static str, value: &Value) -> Result<Self> {
        Ok(Self::new(media_type, serde_json::to_vec(value)?))
    }

    fn descriptor(&self) -> Value {
        json!({
            "mediaType": self.media_type,
            "digest": format!("sha256:{}", self.digest),
            "size": self.bytes.len(),
        })
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// The layer: the files with the folders above them, and `/tmp`.
fn layer(arguments: &Arguments) -> Result<Blob> {
    let mut tar = Builder::new(Vec::new());
    let places = arguments.files.iter().map(|(_, place)| place);
    let places = places.chain(arguments.symlinks.iter().map(|(place, _)| place));
    let mut folders: Vec<&Path> = places.flat_map(|place| Path::new(place).ancestors().skip(1)).collect();
    folders.sort_unstable();
    folders.dedup();
    for folder in folders.into_iter().filter_map(|folder| folder.strip_prefix("/").ok()) {
        if !folder.as_os_str().is_empty() {
            tar.append_data(&mut header(EntryType::Directory, 0o755, 0), folder, std::io::empty())?;
        }
    }
    tar.append_data(&mut header(EntryType::Directory, 0o1777, 0), "tmp", std::io::empty())?;
    for (source, place) in &arguments.files {
        let bytes = fs::read(source).with_context(|| format!("cannot read {source}: is it built?"))?;
        let place = place.strip_prefix('/').ok_or_else(|| anyhow!("{place}: a place begins with /"))?;
        tar.append_data(&mut header(EntryType::Regular, 0o755, bytes.len() as u64), place, &bytes[..])?;
    }
    for (place, target) in &arguments.symlinks {
        let place = place.strip_prefix('/').ok_or_else(|| anyhow!("{place}: a place begins with /"))?;
        tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), place, target)?;
    }
    Ok(Blob::new("application/vnd.oci.image.layer.v1.tar", tar.into_inner()?))
}

fn config(arguments: &Arguments, layer: &Blob) -> Result<Blob> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": arguments.user,
            "Env": ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"],
            "Entrypoint": arguments.entrypoint.iter().collect::<Vec<_>>(),
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)]},
        "history": [{"created_by": "oci-image"}],
    });
    Blob::json("application/vnd.oci.image.config.v1+json", &config)
}

fn write(arguments: &Arguments) -> Result<()> {
    let layer = layer(arguments)?;
    let config = config(arguments, &layer)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor(),
        "layers": [layer.descriptor()],
    });
    let manifest = Blob::json("application/vnd.oci.image.manifest.v1+json", &manifest)?;
    let mut descriptor = manifest.descriptor();
    descriptor["annotations"] = json!({
        "io.containerd.image.name": arguments.name,
        "org.opencontainers.image.ref.name": arguments.name.rsplit_once(':').map_or("latest", |(_, tag)| tag),
    });
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [descriptor]}))?;

    if let Some(folder) = arguments.output.parent() {
        fs::create_dir_all(folder)?;
    }
    // A reader never sees half an archive.
    let partial = arguments.output.with_extension("partial");
    let mut tar = Builder::new(BufWriter::new(File::create(&partial)?));
    let mut put = |place: &str, bytes: &[u8]| {
        tar.append_data(&mut header(EntryType::Regular, 0o644, bytes.len() as u64), place, bytes)
    };
    put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    put("index.json", &index)?;
    for blob in [&manifest, &config, &layer] {
        put(&format!("blobs/sha256/{}", blob.digest), &blob.bytes)?;
    }
    tar.into_inner()?.flush()?;
    fs::rename(&partial, &arguments.output)?;
    Ok(())
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    write(&arguments).with_context(|| format!("cannot make the image {}", arguments.name))?;
    println!("{} -> {}", arguments.name, arguments.output.display());
    Ok(())
}
