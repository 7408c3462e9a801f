//! What nobody should send, against a running nsmgr: it keeps serving, and keeps nothing of it.

use std::{
    collections::VecDeque,
    fs::File,
    io::{IoSlice, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nsm_components::{
    api::{
        Mechanism,
        mechanism::{INODE_URL, NAME},
        peer::{Address, FileKey, Files},
    },
    transport::file_key,
};
use nsm_e2e::{
    mesh::{Mesh, Who},
    wait::{eventually, may_run, until_true},
};
use tonic::Code;

use crate::{
    refusals::beside_an_endpoint,
    story::{LIFE, Story, assert_whole},
    stranger::{LIMIT, Stranger},
};

/// Longer than a handshake, and than a file that nobody claims is kept.
const GONE: Duration = Duration::from_secs(30);

/// The start of a TLS record of 16 KiB.
const RECORD: [u8; 5] = [22, 3, 1, 0x40, 0];

/// Open files of the nsmgr on node 1.
fn open_files(mesh: &Mesh) -> usize {
    let id = mesh.process(Who::Nsmgr(1)).unwrap().id().unwrap();
    std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count()
}

/// Ten thousand that connect and say nothing, never more than some hundreds at once.
fn connect_and_wait(socket: &Path) -> VecDeque<UnixStream> {
    let mut silent = VecDeque::new();
    for _ in 0..10_000 {
        silent.push_back(UnixStream::connect(socket).unwrap());
        if silent.len() > 400 {
            silent.pop_front();
        }
    }
    silent
}

/// Sends `bytes`, each with so many files on it.
fn send_files(stream: &UnixStream, bytes: usize, files: usize) {
    let file = File::open("/proc/self/ns/net").unwrap();
    let files = vec![file.as_raw_fd(); files];
    for _ in 0..bytes {
        let rights = [ControlMessage::ScmRights(&files)];
        let sent =
            sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&[0])], &rights, MsgFlags::MSG_NOSIGNAL, None);
        if sent.is_err() {
            return;
        }
    }
}

#[test]
fn floods_and_garbage_hold_up_nobody_and_leave_nothing() {
    if !may_run() {
        return;
    }
    let story = Story::begin();
    let streams = story.clients().map(|client| story.stream(client));
    let socket = story.mesh.nsmgr_socket(1);
    let before = open_files(&story.mesh);

    let silent = connect_and_wait(&socket);
    let mut senders = Vec::new();
    for (bytes, files) in [(2000, 1), (50, 65), (20, 253)] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(&RECORD).unwrap();
        send_files(&stream, bytes, files);
        senders.push(stream);
    }
    for length in [1, 100, 10_000] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let _ = stream.write_all(&vec![0xa5; length]);
        senders.push(stream);
    }
    // Handshakes and their files are bounded; every stranger's files are.
    let most = before + 400 + 64 * senders.len();
    assert!(open_files(&story.mesh) < most, "{} files were {before}", open_files(&story.mesh));
    for mut stream in senders {
        stream.set_read_timeout(Some(GONE)).unwrap();
        let began = Instant::now();
        let _ = stream.read_to_end(&mut Vec::new());
        assert!(began.elapsed() < GONE, "it is cut");
    }
    drop(silent);
    // A few connections between the mesh's own may have come meanwhile.
    let back = || open_files(&story.mesh) <= before + 4;
    until_true("all files of strangers are closed", GONE, back)
        .unwrap_or_else(|error| panic!("{error}: {} files were {before}", open_files(&story.mesh)));
    // Refreshes went on beneath it.
    streams[0].run_for(LIFE).unwrap();
    for stream in streams {
        assert_whole(stream);
    }
}

fn kernel(key: FileKey) -> Mechanism {
    let mut mechanism = Mechanism::kernel();
    mechanism.set(INODE_URL, key);
    mechanism.set(NAME, "nsm-1");
    mechanism
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_not_what_a_request_says_are_refused_and_closed() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let endpoint = mesh.endpoint(1, "finance", &[]).unwrap();
    let client = mesh.client(1, "kernel://finance/nsm-1").unwrap();
    mesh.connected(client, "nsm-1").unwrap();
    let stranger = Stranger::of(&mesh);
    let channel = stranger.channel(&mesh.nsmgr_socket(1)).await;
    let (before, traces) = (open_files(&mesh), mesh.traces().unwrap());

    // A number that no file came for.
    let wrong = FileKey { dev: 4, ino: 4_026_531_999 };
    let token = channel.token(LIFE).unwrap();
    let asked = stranger.ask_with(&channel, kernel(wrong), &Files::default(), Some(&token)).await;
    let refused = asked.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("did not arrive"), "{refused:?}");

    // A socket, and sixty-four more that nobody names.
    let mut files = Files::default();
    for _ in 0..65 {
        let file = Arc::new(std::os::fd::OwnedFd::from(UnixStream::pair().unwrap().0));
        files.insert(file_key(&*file).unwrap(), file);
    }
    let socket = files.iter().next().unwrap().0;
    let token = channel.token(LIFE).unwrap();
    let refused = stranger.ask_with(&channel, kernel(socket), &files, Some(&token)).await.unwrap_err();
    assert!(refused.message().contains("did not come with the Request"), "{refused:?}");
    drop(files);

    until_true("what nobody claimed is closed", GONE, || open_files(&mesh) <= before + 2)
        .unwrap_or_else(|error| panic!("{error}: {} files were {before}", open_files(&mesh)));
    assert_eq!(mesh.traces().unwrap(), traces);
    assert!(mesh.process(endpoint).unwrap().id().is_some());
}

#[test]
fn a_file_that_is_named_over_tcp_is_refused() {
    if !may_run() {
        return;
    }
    let mesh = Arc::new(Mesh::start(LIFE).unwrap());
    let (node, of) = (mesh.nodes()[0].clone(), mesh.clone());
    let refused = node.inside(move || {
        // Its threads are where this one is.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(async {
            let stranger = Stranger::of(&of);
            let channel = stranger.channel_to(&Address::Tcp("10.77.0.1:5001".into())).await;
            let key = file_key(File::open("/proc/self/ns/net").unwrap()).unwrap();
            let token = channel.token(LIFE).unwrap();
            stranger.ask_with(&channel, kernel(key), &Files::default(), Some(&token)).await
        })
    });
    let refused = refused.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("over TCP"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_vanishes_ends_calls_in_time_and_is_reached_again_when_it_is_back() {
    if !may_run() {
        return;
    }
    let (mesh, pod, stranger, channel) = beside_an_endpoint().await;
    let pod = &pod;
    let asked = async || stranger.ask(&channel, pod, Some(&channel.token(LIFE).unwrap())).await;
    let reached =
        async |what: &str| eventually(Duration::from_millis(100), what, GONE * 2, &asked).await.unwrap();
    let connection = reached("at first").await;
    stranger.close(&channel, connection, pod).await.unwrap();
    // Nothing is closed and nobody answers: packets go nowhere.
    mesh.nodes()[1].ip("link set wire down").unwrap();
    let began = Instant::now();
    let failed = asked().await.unwrap_err();
    assert!(began.elapsed() < LIMIT + Duration::from_secs(2), "{failed:?} after {:?}", began.elapsed());
    mesh.nodes()[1].ip("link set wire up").unwrap();
    let connection = reached("when it is back").await;
    stranger.close(&channel, connection, pod).await.unwrap();
}
