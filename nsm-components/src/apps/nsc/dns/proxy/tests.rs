//! Real servers on the loopback, and what the proxy makes of their answers.

use tokio_util::task::AbortOnDropHandle;

use super::*;

/// `x.` of type A, in class IN.
const QUESTION: &[u8] = &[0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'x', 0, 0, 1, 0, 1];

/// Answers every question with this code and this many answers, of which it sends none; over TCP
/// with one more. `None` is silent.
async fn server(answer: Option<(u8, u8)>) -> (SocketAddr, AbortOnDropHandle<()>) {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(address).await.unwrap();
    let reply = move |question: &[u8], more: u8| {
        let (code, count) = answer?;
        let mut message = question.to_vec();
        (message[2], message[3], message[7]) = (message[2] | 0x80, code, count + more);
        Some(message)
    };
    let task = tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        loop {
            tokio::select! {
                received = udp.recv_from(&mut buffer) => {
                    let (length, from) = received.unwrap();
                    if let Some(message) = reply(&buffer[..length], 0) {
                        // Who guesses the id, or knows it and tells of another name, does not get through.
                        udp.send_to(QUESTION, from).await.unwrap();
                        udp.send_to(&about(&message, b'y', 1), from).await.unwrap();
                        udp.send_to(&message, from).await.unwrap();
                    }
                }
                accepted = tcp.accept() => {
                    let mut stream = accepted.unwrap().0;
                    let question = read_message(&mut stream).await.unwrap();
                    if let Some(message) = reply(&question, 1) {
                        write_message(&mut stream, &message).await.unwrap();
                    }
                }
            }
        }
    });
    (address, AbortOnDropHandle::new(task))
}

/// An answer to the question for another name, or another type.
fn about(answer: &[u8], name: u8, kind: u8) -> Vec<u8> {
    let mut other = answer.to_vec();
    (other[3], other[7], other[13], other[16]) = (0, 9, name, kind);
    other
}

#[test]
fn an_answer_is_one_to_the_question_that_was_asked() {
    let answer = failure(QUESTION);
    assert!(is_answer(QUESTION, &answer) && is_answer(QUESTION, &about(&answer, b'X', 1)));
    for other in [about(&answer, b'y', 1), about(&answer, b'x', 28), about(&answer, b'x', 33)] {
        assert!(!is_answer(QUESTION, &other), "{other:?}");
    }
    assert!(!is_answer(QUESTION, QUESTION) && !is_answer(QUESTION, &answer[..11]));
    // What is cut short, or has another number of questions, is none; one that says it could not read is.
    let mut bare = answer[..12].to_vec();
    assert!(!is_answer(QUESTION, &bare) && !is_question(&QUESTION[..18]) && !is_question(&QUESTION[..12]));
    (bare[5], bare[3]) = (0, 1);
    assert!(is_answer(QUESTION, &bare));
    bare[3] = 3;
    assert!(!is_answer(QUESTION, &bare), "that there is no such name can be said of the name alone");
}

/// The type is compared as it is: 0x41 (HTTPS) is not 0x61.
#[test]
fn only_names_are_the_same_in_another_case() {
    let mut question = QUESTION.to_vec();
    question[16] = 0x41;
    assert!(!is_answer(&question, &about(&failure(QUESTION), b'x', 0x61)));
}

#[tokio::test]
async fn an_answer_to_another_question_over_tcp_is_none() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let answering = tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap().0;
        let question = read_message(&mut stream).await.unwrap();
        write_message(&mut stream, &about(&failure(&question), b'y', 1)).await.unwrap();
    });
    assert!(ask(server, QUESTION.to_vec(), true).await.is_err());
    answering.await.unwrap();
}

async fn proxy(servers: Vec<SocketAddr>) -> (SocketAddr, AbortOnDropHandle<()>) {
    // The sender may go: the servers stay as they are.
    let proxy = Proxy::bind("127.0.0.1:0".parse().unwrap(), watch::channel(servers).1).await.unwrap();
    let address = proxy.udp.local_addr().unwrap();
    (address, AbortOnDropHandle::new(tokio::spawn(proxy.run())))
}

/// Code and number of answers over UDP.
async fn resolve(proxy: SocketAddr) -> (u8, u8) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(QUESTION, proxy).await.unwrap();
    let mut buffer = vec![0; 4096];
    let length = timeout(PATIENCE * 2, socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(buffer[..2], QUESTION[..2], "its own id");
    assert_eq!(buffer[12..length], QUESTION[12..], "its own question");
    (buffer[3] & 15, buffer[7])
}

#[tokio::test]
async fn the_server_that_knows_the_name_is_believed_whatever_the_others_say() {
    let [knows, refuses, unknown, silent] = [
        server(Some((0, 1))).await,
        server(Some((5, 0))).await,
        server(Some((3, 0))).await,
        server(None).await,
    ];
    let (address, _proxy) = proxy(vec![silent.0, refuses.0, unknown.0, knows.0]).await;
    assert_eq!(resolve(address).await, (0, 1));
}

#[tokio::test]
async fn a_name_without_data_is_better_than_none_and_none_better_than_a_failure() {
    let [no_data, unknown, refuses] =
        [server(Some((0, 0))).await, server(Some((3, 0))).await, server(Some((5, 0))).await];
    let (address, _proxy) = proxy(vec![refuses.0, unknown.0, no_data.0]).await;
    assert_eq!(resolve(address).await, (0, 0));
    let (address, _proxy) = proxy(vec![refuses.0, unknown.0]).await;
    assert_eq!(resolve(address).await, (3, 0));
}

#[tokio::test]
async fn who_asks_over_tcp_is_answered_over_tcp_as_often_as_it_asks() {
    let knows = server(Some((0, 1))).await;
    let (address, _proxy) = proxy(vec![knows.0]).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    for _ in 0..2 {
        write_message(&mut stream, QUESTION).await.unwrap();
        let answer = timeout(PATIENCE * 2, read_message(&mut stream)).await.unwrap().unwrap();
        assert_eq!((answer[..2] == QUESTION[..2], answer[7]), (true, 2));
    }
}

#[tokio::test]
async fn without_a_server_that_answers_the_question_fails_and_nonsense_has_no_answer() {
    let (address, _proxy) = proxy(Vec::new()).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for nonsense in [&b"x"[..], &failure(QUESTION)] {
        socket.send_to(nonsense, address).await.unwrap();
    }
    assert_eq!(resolve(address).await, (2, 0));
    assert!(socket.try_recv(&mut [0; 16]).is_err());
}
