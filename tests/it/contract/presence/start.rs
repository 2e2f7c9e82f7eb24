//! What is refused at start, and in which words.

use super::own_redis::{BRIEF, open, refusal, refusal_within};
use crate::support::redis_server::{RedisServer, free_port};

#[tokio::test]
async fn nobody_listening_is_refused_at_start_with_the_address() {
    let port = free_port();
    let text = refusal(&format!("redis://:hunter2@127.0.0.1:{port}/3")).await;
    assert!(text.contains(&format!("127.0.0.1:{port} cannot be reached")), "{text}");
}

#[tokio::test]
async fn a_wrong_or_missing_password_is_refused_at_start() {
    let server = RedisServer::start(&["--requirepass", "right"]).await;
    for login in [":hunter2@", "bob:hunter2@", ""] {
        let url = format!("redis://{login}127.0.0.1:{}", server.port());
        let text = refusal(&url).await;
        assert!(text.contains("refused the user or password"), "{login}: {text}");
    }
    let url = format!("redis://:right@127.0.0.1:{}", server.port());
    open(&url).await.expect("the right password is taken");
}

#[tokio::test]
async fn a_read_only_replica_is_refused_at_start() {
    let nobody = free_port().to_string();
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &nobody]).await;
    let text = refusal(&replica.url()).await;
    assert!(text.contains("is read-only"), "{text}");
}

#[tokio::test]
async fn a_user_who_may_not_write_is_refused_at_start() {
    let server = RedisServer::start(&[]).await;
    let () = server.run(&["ACL", "SETUSER", "bob", "on", ">hunter2", "~*", "+@read", "+@connection"]).await;
    let text = refusal(&format!("redis://bob:hunter2@127.0.0.1:{}", server.port())).await;
    assert!(text.contains("refuses to serve"), "{text}");
}

#[tokio::test]
async fn a_wrong_url_is_refused_with_the_forms_it_may_have() {
    let text = refusal("redis+sentinel://:hunter2@127.0.0.1:26379").await;
    assert!(text.contains("names no service"), "{text}");
    assert!(text.contains("redis+sentinel://[user:password@]host:port"), "{text}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_refused_at_start() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let text = refusal_within(BRIEF, &format!("redis://127.0.0.1:{port}")).await;
    assert!(text.contains("did not answer within"), "{text}");
}
