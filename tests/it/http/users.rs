//! Presence for publishers, tickets for users' browsers.

use std::sync::Arc;

use fanfare::auth::ticket::Ticket;
use fanfare::clock::Clock;
use fanfare::domain::UserId;
use fanfare::inbox::Upkeep;
use fanfare::presence::Presence;
use reqwest::Method;
use serde_json::json;

use super::rig::{Away, KEY, LIMITED_KEY, Rig, got, user_token};

#[tokio::test]
async fn publishers_see_who_is_connected_where_and_who_was_when() {
    let rig = Rig::start().await;
    let (connection, _) = rig.connect(&rig.second, "alice", "phone").await;
    let (bob, then) = (UserId::new("bob").expect("an id"), fanfare::domain::UnixMillis(1_764_547_200_000));
    rig.inbox.seen(vec![(bob, then)]).await.expect("it is written");
    let path = "/v1/presence?user=bob&user=alice&user=bob&user=c%7Cd";
    let answer = got(rig.ask(Method::GET, path).bearer_auth(KEY)).await;
    assert_eq!(answer.status, 200, "{}", answer.json);
    let device = json!({"device": "phone", "node": "n2", "connection": connection});
    let mut users = answer.json["users"].as_array().expect("a list").clone();
    assert!(users[1]["last_seen"].is_null() || users[1]["last_seen"].is_string());
    users[1]["last_seen"] = json!(null);
    assert_eq!(
        json!(users),
        json!([
            {"user": "bob", "online": false, "devices": [], "last_seen": "2025-12-01T00:00:00Z"},
            {"user": "alice", "online": true, "devices": [device], "last_seen": null},
            {"user": "c|d", "online": false, "devices": [], "last_seen": null},
        ])
    );
}

#[tokio::test]
async fn presence_is_for_publishers_within_their_limits_and_bounds() {
    let rig = Rig::start().await;
    let ask =
        |query: &str, key: &str| got(rig.ask(Method::GET, &format!("/v1/presence{query}")).bearer_auth(key));
    got(rig.ask(Method::GET, "/v1/presence?user=a")).await.is_problem(401, "unauthorized", "key");
    ask("?user=a", &user_token("a")).await.is_problem(403, "missing_scope", "publish");
    ask("?user=bob&user=alice", LIMITED_KEY).await.is_problem(403, "forbidden_target", "alice");
    assert_eq!(ask("?user=bob", LIMITED_KEY).await.status, 200);
    ask("", KEY).await.is_problem(422, "invalid_request", "none");
    ask("?users=a", KEY).await.is_problem(422, "invalid_request", "users");
    ask("?user=a%2Fb", KEY).await.is_problem(422, "invalid_request", "a/b");
    let many = |count| (0..count).map(|number| format!("&user=u{number}")).collect::<String>();
    assert_eq!(ask(&format!("?{}", many(100)), KEY).await.status, 200);
    ask(&format!("?{}", many(101)), KEY).await.is_problem(422, "too_many_users", "100");
}

#[tokio::test]
async fn without_redis_presence_and_tickets_say_so() {
    let rig = Rig::start_with(|state| state.presence = Arc::new(Away)).await;
    let answer = got(rig.ask(Method::GET, "/v1/presence?user=a").bearer_auth(KEY)).await;
    answer.is_problem(503, "presence_unavailable", "presence");
    assert_eq!(answer.header("retry-after"), Some("1"));
    let ticket = rig.ask(Method::POST, "/v1/tickets").bearer_auth(user_token("alice"));
    got(ticket).await.is_problem(503, "presence_unavailable", "tickets");
}

#[tokio::test]
async fn a_ticket_stands_once_for_its_user_topics_and_origin() {
    let rig = Rig::start().await;
    let origin = format!("http://{}", rig.clients);
    let ask = rig.ask(Method::POST, "/v1/tickets").bearer_auth(user_token("alice")).header("origin", &origin);
    let answer = got(ask).await;
    assert_eq!(answer.status, 200, "{}", answer.json);
    assert_eq!(answer.json["expires_in_ms"], 30_000);
    let secret = answer.json["ticket"].as_str().expect("a ticket").to_owned();
    // 32 bytes in base64url without padding.
    assert_eq!(secret.len(), 43);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    assert!(secret.bytes().all(is_plain), "{secret}");

    let value = rig.presence.take_ticket(&secret).await.expect("it answers").expect("it is kept");
    let ticket = Ticket::parse(&value).expect("its shape");
    let now = Clock::system().now();
    assert!(ticket.fits(Some(&origin), now));
    assert!(!ticket.fits(None, now) && !ticket.fits(Some("https://shop.example"), now));
    let claims = ticket.into_claims();
    assert_eq!(claims.user.as_str(), "alice");
    assert_eq!(claims.topics.iter().map(|topic| topic.as_str()).collect::<Vec<_>>(), ["news.#"]);
    assert_eq!(rig.presence.take_ticket(&secret).await.expect("it answers"), None);
}

#[tokio::test]
async fn tickets_are_for_users_of_this_site_and_of_listed_ones() {
    let rig = Rig::start().await;
    let ask = |origin: &str| rig.ask(Method::POST, "/v1/tickets").header("origin", origin);
    let evil = got(ask("https://evil.example").bearer_auth(user_token("alice"))).await;
    evil.is_problem(403, "origin_forbidden", "evil.example");
    assert_eq!(evil.header("access-control-allow-origin"), None);
    let listed = got(ask("https://shop.example").bearer_auth(user_token("alice"))).await;
    assert_eq!((listed.status, listed.header("vary")), (200, Some("origin")));
    assert_eq!(listed.header("access-control-allow-origin"), Some("https://shop.example"));
    let refused = got(ask("https://shop.example").bearer_auth("x.y.z")).await;
    refused.is_problem(401, "invalid_token", "token");
    assert_eq!(refused.header("access-control-allow-origin"), Some("https://shop.example"));
    got(rig.ask(Method::POST, "/v1/tickets")).await.is_problem(401, "unauthorized", "user's token");
    let body = |body: &'static str| {
        got(rig.ask(Method::POST, "/v1/tickets").bearer_auth(user_token("alice")).body(body))
    };
    assert_eq!(body("{\"device\":\"web-1\"}").await.status, 200);
    body("{\"device\":\"a/b\"}").await.is_problem(422, "invalid_request", "a/b");
    body("{\"devise\":\"web-1\"}").await.is_problem(422, "invalid_request", "devise");
    body("{").await.is_problem(400, "invalid_json", "EOF");
}

#[tokio::test]
async fn a_preflight_is_answered_for_listed_sites_and_what_is_a_users_only() {
    let rig = Rig::start().await;
    let ask = |path: &str, origin: &str| {
        let request = rig.ask(Method::OPTIONS, path).header("origin", origin);
        got(request.header("access-control-request-method", "POST"))
    };
    for (path, method) in [
        ("/v1/tickets", "POST"),
        ("/v1/inbox", "GET"),
        ("/v1/inbox/unread", "GET"),
        ("/v1/inbox/read", "POST"),
        ("/v1/devices/web-1", "DELETE"),
    ] {
        let listed = ask(path, "https://shop.example").await;
        assert_eq!(listed.status, 204);
        assert_eq!(listed.header("access-control-allow-origin"), Some("https://shop.example"));
        assert_eq!(listed.header("access-control-allow-methods"), Some(method), "{path}");
        let allowed = listed.header("access-control-allow-headers").unwrap_or_default();
        assert!(allowed.contains("authorization") && allowed.contains("content-type"), "{allowed}");
    }
    ask("/v1/tickets", "https://evil.example").await.is_problem(403, "origin_forbidden", "evil");
    let publish = ask("/v1/notifications", "https://shop.example").await;
    assert_eq!((publish.status, publish.header("access-control-allow-origin")), (204, None));
}
