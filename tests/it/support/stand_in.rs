//! Stand-ins of nodes that answer HTTP as a test likes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::accept_async;

/// Answers each HTTP request with what `answer` makes of its head (an empty answer cuts the
/// connection), and counts requests.
pub async fn stand_in(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if let Some(head) = head(&mut stream).await {
                count.fetch_add(1, Ordering::Relaxed);
                // The connection may be gone; then the proxy says so to the test.
                let answer = answer(&head);
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    });
    (port, requests)
}

async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    String::from_utf8(bytes).ok()
}

/// 200 with the head of the request.
pub fn echo(head: &str) -> String {
    answer("200 OK", head)
}

/// An answer with a body, after which the connection ends.
pub fn answer(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

/// Takes WebSockets until one was opened, and sends the first message of that one back.
pub async fn websocket_echo() -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            // The first request of the test's proxy is no handshake.
            let Ok(mut socket) = accept_async(stream).await else {
                continue;
            };
            let message = socket.next().await.expect("open").expect("a message");
            return socket.send(message).await.expect("sent");
        }
    });
    (port, server)
}
