//! `/admin/dead-letters`: shapes, refusals, and what is asked of the graveyard.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use fanfare::broker::{DeadLetter, DeadLetterError, DeadLetters, Graveyard};
use fanfare::domain::{Priority, UnixMillis};
use reqwest::Method;
use serde_json::json;

use super::rig::{Rig, got};

/// Letters in memory, or an error for everything.
struct Letters {
    kept: Mutex<Vec<(DeadLetter, Bytes)>>,
    error: Option<DeadLetterError>,
}

impl Letters {
    fn new(error: Option<DeadLetterError>) -> Self {
        let letter = |id: &str, body: &'static [u8]| {
            let letter = DeadLetter {
                id: id.to_owned(),
                code: "invalid_json".to_owned(),
                reason: "this is no JSON".to_owned(),
                first_failed_at: Some(UnixMillis(1_764_547_200_000)),
                last_failed_at: None,
                failures: 2,
                lane: Priority::Low,
                routing_key: "low".to_owned(),
                publisher: Some("shop".to_owned()),
                message_id: None,
                expiration: Some("60000".to_owned()),
                size: body.len(),
            };
            (letter, Bytes::from_static(body))
        };
        Self { kept: Mutex::new(vec![letter("a-1", b"{nonsense"), letter("b-2", b"\xff\x00")]), error }
    }

    fn take(&self, id: &str) -> Result<DeadLetter, DeadLetterError> {
        self.find_here(id)?;
        let mut kept = self.kept.lock().expect("nobody panicked");
        let at = kept.iter().position(|(letter, _)| letter.id == id).expect("it was just found");
        Ok(kept.remove(at).0)
    }

    fn find_here(&self, id: &str) -> Result<(DeadLetter, Bytes), DeadLetterError> {
        self.error.clone().map_or(Ok(()), Err)?;
        let kept = self.kept.lock().expect("nobody panicked");
        let found = kept.iter().find(|(letter, _)| letter.id == id).cloned();
        found.ok_or_else(|| DeadLetterError::Unknown(id.to_owned()))
    }
}

#[async_trait]
impl Graveyard for Letters {
    async fn list(&self, after: Option<&str>, limit: usize) -> Result<DeadLetters, DeadLetterError> {
        if let Some(after) = after {
            self.find_here(after)?;
        }
        self.error.clone().map_or(Ok(()), Err)?;
        let kept = self.kept.lock().expect("nobody panicked");
        let skipped =
            kept.iter().position(|(letter, _)| Some(letter.id.as_str()) == after).map_or(0, |at| at + 1);
        let letters: Vec<_> =
            kept.iter().skip(skipped).take(limit).map(|(letter, _)| letter.clone()).collect();
        let more = skipped + letters.len() < kept.len();
        Ok(DeadLetters { letters, more })
    }

    async fn find(&self, id: &str) -> Result<(DeadLetter, Bytes), DeadLetterError> {
        self.find_here(id)
    }

    async fn requeue(&self, id: &str) -> Result<DeadLetter, DeadLetterError> {
        self.take(id)
    }

    async fn delete(&self, id: &str) -> Result<DeadLetter, DeadLetterError> {
        self.take(id)
    }
}

async fn rig(error: Option<DeadLetterError>) -> Rig {
    Rig::start_with(|state| state.graveyard = Arc::new(Letters::new(error))).await
}

#[tokio::test]
async fn letters_are_listed_page_by_page_and_shown_with_their_bodies() {
    let rig = rig(None).await;
    let list = got(rig.operate(Method::GET, "/admin/dead-letters?limit=1")).await;
    let letter = json!({
        "id": "a-1", "code": "invalid_json", "reason": "this is no JSON",
        "first_failed_at": "2025-12-01T00:00:00Z", "last_failed_at": null, "failures": 2, "lane": "low",
        "routing_key": "low", "publisher": "shop", "message_id": null, "expiration": "60000", "size": 9,
    });
    assert_eq!((list.status, &list.json), (200, &json!({"dead_letters": [letter], "next": "a-1"})));
    let rest = got(rig.operate(Method::GET, "/admin/dead-letters?after=a-1")).await;
    assert_eq!(rest.json["dead_letters"][0]["id"], "b-2");
    assert_eq!(
        (rest.json["dead_letters"].as_array().map(Vec::len), &rest.json["next"]),
        (Some(1), &json!(null))
    );

    let text = got(rig.operate(Method::GET, "/admin/dead-letters/a-1")).await;
    assert_eq!((&text.json["body"], text.json.get("body_base64")), (&json!("{nonsense"), None));
    let bytes = got(rig.operate(Method::GET, "/admin/dead-letters/b-2")).await;
    assert_eq!((bytes.json.get("body"), &bytes.json["body_base64"]), (None, &json!("/wA=")));
}

#[tokio::test]
async fn a_letter_is_requeued_or_deleted_once() {
    let rig = rig(None).await;
    let requeued = got(rig.operate(Method::POST, "/admin/dead-letters/a-1/requeue")).await;
    assert_eq!(
        (requeued.status, requeued.json),
        (200, json!({"id": "a-1", "status": "requeued", "lane": "low"}))
    );
    let deleted = got(rig.operate(Method::DELETE, "/admin/dead-letters/b-2")).await;
    assert_eq!(deleted.status, 204);
    for (method, path) in [
        (Method::GET, "/admin/dead-letters/a-1"),
        (Method::POST, "/admin/dead-letters/a-1/requeue"),
        (Method::DELETE, "/admin/dead-letters/b-2"),
        (Method::GET, "/admin/dead-letters?after=a-1"),
    ] {
        got(rig.operate(method, path)).await.is_problem(404, "not_found", "no dead letter");
    }
}

#[tokio::test]
async fn letters_are_for_administrators_by_their_methods_and_within_limits() {
    let rig = rig(None).await;
    for (method, path) in [
        (Method::GET, "/admin/dead-letters"),
        (Method::GET, "/admin/dead-letters/a-1"),
        (Method::DELETE, "/admin/dead-letters/a-1"),
        (Method::POST, "/admin/dead-letters/a-1/requeue"),
    ] {
        let stranger = rig.operate(method, path).bearer_auth("ffa_nobody");
        let refused = got(stranger).await;
        assert_eq!(refused.status, 401, "{path}: {}", refused.json);
    }
    for (method, path, allow) in [
        (Method::POST, "/admin/dead-letters", "GET, HEAD, OPTIONS"),
        (Method::PUT, "/admin/dead-letters/a-1", "GET, HEAD, DELETE, OPTIONS"),
        (Method::GET, "/admin/dead-letters/a-1/requeue", "POST, OPTIONS"),
    ] {
        let refused = got(rig.operate(method, path)).await;
        refused.is_problem(405, "method_not_allowed", "");
        assert_eq!(refused.header("allow"), Some(allow));
    }
    for query in ["limit=0", "limit=1001", "limit=x", "page=1"] {
        let path = format!("/admin/dead-letters?{query}");
        got(rig.operate(Method::GET, &path)).await.is_problem(422, "invalid_request", "");
    }
}

#[tokio::test]
async fn a_broker_that_cannot_be_asked_is_503_with_the_reason() {
    for (error, code) in [
        (DeadLetterError::Unavailable, "broker_unavailable"),
        (DeadLetterError::Busy, "dead_letters_busy"),
        (DeadLetterError::NotRequeued("the lane is full".to_owned()), "not_requeued"),
    ] {
        let rig = rig(Some(error)).await;
        for (method, path) in
            [(Method::GET, "/admin/dead-letters"), (Method::POST, "/admin/dead-letters/a-1/requeue")]
        {
            let refused = got(rig.operate(method, path)).await;
            refused.is_problem(503, code, "");
            assert!(refused.header("retry-after").is_some());
        }
    }
}

#[tokio::test]
async fn an_embedded_node_has_no_letters() {
    let rig = Rig::start().await;
    let list = got(rig.operate(Method::GET, "/admin/dead-letters")).await;
    assert_eq!((list.status, list.json), (200, json!({"dead_letters": [], "next": null})));
    got(rig.operate(Method::GET, "/admin/dead-letters/x")).await.is_problem(404, "not_found", "");
}
