//! Which files are kept, for whom and how many.

use super::*;
use crate::transport::file_key;

fn file() -> (FileKey, OwnedFd) {
    let file = OwnedFd::from(std::os::unix::net::UnixDatagram::unbound().unwrap());
    (file_key(&file).unwrap(), file)
}

fn soon() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(5)
}

#[tokio::test]
async fn a_file_is_found_whether_it_comes_before_or_after_the_message() {
    let table = FdTable::default();
    let (before, one) = file();
    let (after, two) = file();
    table.store([one]);
    assert_eq!(file_key(table.take(before, soon()).await.unwrap()).unwrap(), before);
    let waiting = table.clone();
    let task = tokio::spawn(async move { waiting.take(after, soon()).await });
    tokio::task::yield_now().await;
    table.store([two]);
    assert_eq!(file_key(task.await.unwrap().unwrap()).unwrap(), after);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_came_twice_is_there_for_both_messages_that_name_it() {
    let table = FdTable::default();
    let (key, one) = file();
    let two = one.try_clone().unwrap();
    table.store([one, two]);
    table.take(key, soon()).await.unwrap();
    table.take(key, soon()).await.unwrap();
    assert!(table.take(key, soon()).await.is_err());
    assert!(table.take_arrived(key).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_file_that_never_comes_ends_the_wait_with_its_key() {
    let key = FileKey { dev: 1, ino: 2 };
    let error = FdTable::default().take(key, soon()).await.unwrap_err();
    assert!(error.to_string().contains("inode://1/2"));
}

#[tokio::test]
async fn a_burst_of_calls_of_a_known_peer_loses_no_file_and_a_strangers_is_cut() {
    for (trusted, kept) in [(true, 100), (false, MAX_UNCLAIMED.0)] {
        let table = FdTable::default();
        if trusted {
            table.trust(Share::default());
        }
        let (keys, files): (Vec<_>, Vec<_>) = (0..100).map(|_| file()).unzip();
        table.store(files);
        assert_eq!(keys.into_iter().filter_map(|key| table.take_arrived(key)).count(), kept);
    }
}

#[tokio::test]
async fn what_a_peer_may_leave_unclaimed_is_for_all_its_connections_together() {
    let share = Share::default();
    let tables = [(); 3].map(|()| FdTable::default());
    let mut files = (0..MAX_UNCLAIMED.1 + 2).map(|_| file());
    for table in &tables {
        table.trust(share.clone());
    }
    let early = files.next().unwrap();
    tables[0].store([early.1]);
    tables[1].store(files.by_ref().take(MAX_UNCLAIMED.1).map(|(_, file)| file));
    let late = files.next().unwrap();
    tables[2].store([late.1]);
    let count = |table: &FdTable| table.0.received.lock().files.len();
    assert_eq!(tables.each_ref().map(count), [1, MAX_UNCLAIMED.1 - 1, 0]);
    // What is claimed, or goes with its connection, makes room.
    assert!(tables[0].take_arrived(early.0).is_some());
    let [_, second, third] = tables;
    let (key, one) = file();
    third.store([one]);
    assert!(third.take_arrived(key).is_some());
    drop(second);
    assert_eq!(share.0.load(Ordering::Relaxed), 0);
}

#[test]
fn a_full_queue_refuses_what_is_new_and_keeps_what_waits() {
    let table = FdTable::default();
    let (key, one) = file();
    let mut files = Files::default();
    files.insert(key, Arc::new(one));
    let taken = (0..MAX_QUEUED + 5).filter(|_| table.send(&files)).count();
    assert_eq!(taken, MAX_QUEUED);
    assert_eq!(std::iter::from_fn(|| table.pop()).count(), MAX_QUEUED);
}

#[tokio::test]
async fn a_file_that_is_no_socket_and_no_namespace_is_not_kept() {
    let table = FdTable::default();
    let other = OwnedFd::from(tempfile::tempfile().unwrap());
    let namespace = OwnedFd::from(std::fs::File::open("/proc/self/ns/net").unwrap());
    let (wrong, right) = (file_key(&other).unwrap(), file_key(&namespace).unwrap());
    table.store([other, namespace]);
    assert!(table.take_arrived(wrong).is_none());
    assert!(table.take_arrived(right).is_some());
}
