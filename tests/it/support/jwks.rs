//! A place that key sets are fetched from: it answers what a test wants, and counts who asks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const RSA: &str = include_str!("../keys/rsa.private.pem");
const P256: &str = include_str!("../keys/p256.private.pem");
const ED25519: &str = include_str!("../keys/ed25519.private.pem");

/// An HTTP server on loopback. It ends with its owner.
#[derive(Debug)]
pub struct KeyServer {
    port: u16,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// A whole answer; `None`: requests are left without one.
    answer: Mutex<Option<Vec<u8>>>,
    requests: AtomicUsize,
}

impl KeyServer {
    /// Starts it on this port (0: any) with a set of these keys.
    pub async fn start(port: u16, keys: &[Value]) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::clone(&shared)));
        let server = Self { port, shared, _tasks: tasks };
        server.publish(keys);
        server
    }

    /// Where the set is.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/jwks", self.port)
    }

    /// From now on the set has these keys.
    pub fn publish(&self, keys: &[Value]) {
        self.answer("200 OK", "", &json!({"keys": keys}).to_string());
    }

    /// From now on this is the answer; `headers` are lines with their ends.
    pub fn answer(&self, status: &str, headers: &str, body: &str) {
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n");
        *self.shared.answer.lock().expect("whole") = Some([head.as_bytes(), body.as_bytes()].concat());
    }

    /// From now on requests get no answer.
    pub fn fall_silent(&self) {
        *self.shared.answer.lock().expect("whole") = None;
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut left_waiting = vec![];
    while let Ok((mut socket, _)) = listener.accept().await {
        if !read_head(&mut socket).await {
            continue;
        }
        shared.requests.fetch_add(1, Ordering::SeqCst);
        let answer = shared.answer.lock().expect("whole").clone();
        match answer {
            // A client that does not want all of it goes away.
            Some(answer) => drop(socket.write_all(&answer).await),
            None => left_waiting.push(socket),
        }
    }
}

async fn read_head(socket: &mut TcpStream) -> bool {
    let (mut head, mut buffer) = (vec![], [0_u8; 1024]);
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read(&mut buffer).await {
            Ok(read @ 1..) => head.extend_from_slice(&buffer[..read]),
            _ => return false,
        }
    }
    true
}

/// The test key of this algorithm.
pub fn private_key(algorithm: Algorithm) -> EncodingKey {
    let read = match algorithm {
        Algorithm::ES256 => EncodingKey::from_ec_pem(P256.as_bytes()),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(ED25519.as_bytes()),
        _ => EncodingKey::from_rsa_pem(RSA.as_bytes()),
    };
    read.expect("a private key")
}

/// The public half of the test key of this algorithm, as it stands in a set.
pub fn public_key(kid: &str, algorithm: Algorithm) -> Value {
    let mut jwk = Jwk::from_encoding_key(&private_key(algorithm), algorithm).expect("a public key");
    jwk.common.key_id = Some(kid.to_owned());
    serde_json::to_value(jwk).expect("JSON")
}

/// A token that names `kid`, signed with the test key of this algorithm.
pub fn token(kid: &str, algorithm: Algorithm, claims: &Value) -> String {
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) };
    encode(&header, claims, &private_key(algorithm)).expect("the key signs")
}
