use tempfile::TempDir;

use super::*;
use crate::dataplane::{NetnsKey, Place, Role};

fn entry(id: &str) -> Entry {
    let place = Place { role: Role::Client, netns: NetnsKey { dev: 4, ino: 7 }, name: "nsm-1".into() };
    let footprint =
        Footprint { id: ConnectionId::new(id).unwrap(), places: vec![place], has_policies: false };
    Entry { footprint, kind: "veth".into(), vni: None, port: None, expires: 1_700_000_000 }
}

fn names(folder: &TempDir) -> Vec<String> {
    let files = fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn the_next_process_reads_what_was_put_and_not_removed() {
    let folder = TempDir::new().unwrap();
    let (journal, found) = Journal::open(folder.path()).unwrap();
    assert_eq!(found, []);
    journal.put(entry("c1")).await.unwrap();
    journal.put(entry("c2")).await.unwrap();
    journal.put(Entry { expires: 5, ..entry("c2") }).await.unwrap();
    journal.remove(&ConnectionId::new("c1").unwrap()).await.unwrap();
    journal.remove(&ConnectionId::new("c1").unwrap()).await.unwrap();

    let (_, found) = Journal::open(folder.path()).unwrap();

    assert_eq!(found, [Entry { expires: 5, ..entry("c2") }]);
    assert_eq!(names(&folder), ["c2.json"]);
}

#[tokio::test]
async fn the_file_of_a_connection_that_ended_is_written_again_and_means_nothing_to_the_next_process() {
    let folder = TempDir::new().unwrap();
    let (journal, _) = Journal::open(folder.path()).unwrap();
    let inode =
        |name: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(folder.path().join(name)).unwrap());
    let long = Entry { kind: "of a longer kind".into(), ..entry("c1") };
    journal.put(long).await.unwrap();
    let before = inode("c1.json");
    journal.remove(&ConnectionId::new("c1").unwrap()).await.unwrap();
    assert_eq!(names(&folder), ["0.spare"]);
    journal.put(entry("c2")).await.unwrap();
    assert_eq!((inode("c2.json"), names(&folder)), (before, vec!["c2.json".to_owned()]));
    journal.put(entry("c3")).await.unwrap();
    journal.remove(&ConnectionId::new("c3").unwrap()).await.unwrap();

    let (_, found) = Journal::open(folder.path()).unwrap();
    assert_eq!(found, [entry("c2")]);
    assert_eq!(names(&folder), ["c2.json"]);
}

#[tokio::test]
async fn unreadable_files_are_set_aside_and_the_rest_is_read() {
    let folder = TempDir::new().unwrap();
    let (journal, _) = Journal::open(folder.path()).unwrap();
    journal.put(entry("good")).await.unwrap();
    let good = fs::read_to_string(folder.path().join("good.json")).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("cut.json", &good[..good.len() / 2]);
    write("renamed.json", &good);
    write("future.json", &good.replace("\"version\":1", "\"version\":2").replace("good", "future"));
    write("huge.json", &" ".repeat(1 << 20));
    write("good.json.tmp", "{");

    let (_, found) = Journal::open(folder.path()).unwrap();

    assert_eq!(found, [entry("good")]);
    let aside = ["cut.unreadable", "future.unreadable", "good.json", "huge.unreadable", "renamed.unreadable"];
    assert_eq!(names(&folder), aside);
}

#[tokio::test]
async fn entries_of_an_earlier_boot_are_dropped() {
    let folder = TempDir::new().unwrap();
    let (journal, _) = Journal::open(folder.path()).unwrap();
    journal.put(entry("c1")).await.unwrap();
    let file = folder.path().join("c1.json");
    let text = fs::read_to_string(&file).unwrap();
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    fs::write(&file, text.replace(boot_id.trim(), "another")).unwrap();

    let (_, found) = Journal::open(folder.path()).unwrap();

    assert_eq!((found, names(&folder)), (vec![], vec![]));
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let error = Journal::open("/proc/no/such/folder").unwrap_err();
    assert!(error.to_string().contains("/proc/no/such/folder"), "{error}");
}

#[tokio::test]
async fn a_process_that_stops_says_so_to_the_next_one_and_to_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(folder.path()).unwrap();
    assert_eq!(journal.quiesced(), None);
    journal.quiesce(3).await.unwrap();
    let (next, _) = Journal::open(folder.path()).unwrap();
    let quiesced = next.quiesced().unwrap();
    assert_eq!(quiesced.connections, 3);
    assert!(quiesced.ago < Duration::from_mins(1), "{quiesced:?}");
    // That one is killed.
    assert_eq!(Journal::open(folder.path()).unwrap().0.quiesced(), None);
    let marker = r#"{"boot_id":"another","connections":3,"at":0}"#;
    fs::write(folder.path().join(MARKER), marker).unwrap();
    assert_eq!(Journal::open(folder.path()).unwrap().0.quiesced(), None, "links do not outlive a boot");
}
