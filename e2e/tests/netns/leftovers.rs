//! The check that looks for what tests leave sees one of each kind.

use std::{
    cell::RefCell,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nsm_e2e::{
    leftovers::Before,
    mesh::Mesh,
    netns::Netns,
    wait::{may_run, until_true},
};

use crate::story::LIFE;

/// One look is enough, or too much.
const AT_ONCE: Duration = Duration::ZERO;

/// What takes the kernel a moment.
const SOON: Duration = Duration::from_secs(10);

fn ran(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// Makes one leftover, which the check names by this word, and takes it back.
fn sees(before: &Before, folder: &Path, word: &str, make: impl FnOnce(), take_back: impl FnOnce()) {
    before.is_restored(&[folder], SOON).unwrap();
    make();
    let failed = format!("{:#}", before.is_restored(&[folder], AT_ONCE).expect_err(word));
    assert!(failed.contains(word), "{failed} does not name {word}");
    take_back();
    before.is_restored(&[folder], SOON).unwrap();
}

#[test]
fn one_leftover_of_any_kind_fails_the_test_that_left_it() {
    if !may_run() {
        return;
    }
    // Not in the host itself: tests run side by side.
    let host = Netns::new("host").unwrap();
    host.ip("link add uplink type bridge").unwrap();
    // Addresses that come and go with the link are not what is looked for.
    host.ip("link set uplink addrgenmode none").unwrap();
    host.ip("address add 10.1.1.1/24 dev uplink").unwrap();
    host.ip("link set uplink up").unwrap();
    let (named, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = own.path();
    let before = Before::look_at(host.clone(), named.path().to_owned()).unwrap();
    let ip = |line: &'static str| {
        let host = host.clone();
        move || drop(host.ip(line).unwrap())
    };
    for (word, make, take_back) in [
        ("left0", "link add left0 type bridge", "link delete left0"),
        ("10.9.8.7", "address add 10.9.8.7/32 dev uplink", "address delete 10.9.8.7/32 dev uplink"),
        ("10.9.0.0/16", "route add 10.9.0.0/16 dev uplink", "route delete 10.9.0.0/16 dev uplink"),
        ("lookup 77", "rule add from 10.9.0.0/16 lookup 77", "rule delete lookup 77"),
        ("lookup 78", "-6 rule add from fd00:9::/64 lookup 78", "-6 rule delete lookup 78"),
        (
            "02:00:00:00:00:09",
            "neighbour add 10.9.8.1 lladdr 02:00:00:00:00:09 dev uplink",
            "neighbour delete 10.9.8.1 dev uplink",
        ),
        // What was there and is not.
        ("gone", "link set uplink down", "link set uplink up"),
    ] {
        sees(&before, folder, word, ip(make), ip(take_back));
    }
    let path: PathBuf = named.path().join("lost");
    sees(
        &before,
        folder,
        "lost",
        || drop(File::create(&path).unwrap()),
        || std::fs::remove_file(&path).unwrap(),
    );
    let mount = folder.join("mounted");
    std::fs::create_dir(&mount).unwrap();
    let bind = || ran(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&mount));
    sees(&before, folder, "mounted", bind, || ran(Command::new("umount").arg(&mount)));
    let open = RefCell::new(None);
    let file = folder.join("journal");
    let make = || drop(open.replace(Some(File::create(&file).unwrap())));
    sees(&before, folder, "journal", make, || drop(open.take()));
}

#[test]
fn a_process_that_works_in_a_tests_folder_and_a_number_of_a_namespace_are_leftovers() {
    if !may_run() {
        return;
    }
    let (host, other) = (Netns::new("host").unwrap(), Netns::new("other").unwrap());
    let own = tempfile::tempdir().unwrap();
    let before = Before::look_at(host.clone(), own.path().join("none")).unwrap();
    let mut command = Command::new("sleep");
    let mut child = command.arg("60").current_dir(own.path()).stdin(Stdio::null()).spawn().unwrap();
    let failed = before.is_restored(&[own.path()], AT_ONCE).unwrap_err();
    assert!(format!("{failed:#}").contains(&format!("/proc/{}/cwd", child.id())), "{failed:#}");
    child.kill().unwrap();
    child.wait().unwrap();
    before.is_restored(&[own.path()], SOON).unwrap();
    // A number stays when the link that it was given for is gone.
    host.ip(&format!("link add veth0 type veth peer name veth0 netns {}", other.path())).unwrap();
    host.ip("link show").unwrap();
    host.ip("link delete veth0").unwrap();
    let failed = format!("{:#}", before.is_restored(&[own.path()], AT_ONCE).unwrap_err());
    assert!(failed.contains("nsid 0"), "{failed}");
    drop(other);
    before.is_restored(&[own.path()], SOON).unwrap();
}

#[test]
fn a_mesh_that_ends_leaves_nothing_and_one_leftover_fails_it() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let endpoint = mesh.endpoint(2, "finance", &[]).unwrap();
    let client = mesh.client(1, "kernel://finance/nsm-1").unwrap();
    mesh.connected(client, "nsm-1").unwrap();
    let held = File::open(mesh.program_of(endpoint)).unwrap();
    // It waits for what is being closed just now.
    let ended = std::thread::spawn(move || drop(mesh));
    until_true("the mesh has looked", SOON * 4, || ended.is_finished()).unwrap();
    let failed = ended.join().unwrap_err();
    let why = failed.downcast_ref::<String>().map_or("", String::as_str);
    assert!(why.contains("left something behind") && why.contains("nse-1"), "{why}");
    drop(held);
}
