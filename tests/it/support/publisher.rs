//! A backend service that publishes.

use std::time::Duration;

use serde_json::Value;

use super::backends::http_client;
use super::tokens::Credentials;
use super::within;

/// A backend service that publishes over HTTP.
#[derive(Debug, Clone)]
pub struct Publisher {
    client: reqwest::Client,
    url: String,
    key: String,
}

/// An answer to a publish.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Whether it was remembered from an earlier request.
    pub is_replayed: bool,
    /// The body.
    pub body: Value,
}

impl Publisher {
    /// Posts to `http_url`.
    pub fn new(http_url: &str, credentials: &Credentials) -> Self {
        let url = format!("{http_url}/v1/notifications");
        Self { client: http_client(), url, key: credentials.publisher_key.clone() }
    }

    /// One request.
    ///
    /// # Errors
    /// No answer arrived.
    pub async fn try_publish(&self, body: &Value, key: Option<&str>) -> reqwest::Result<Answer> {
        let mut request = self.client.post(&self.url).bearer_auth(&self.key).json(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let is_replayed = answer.headers().contains_key("idempotent-replayed");
        let text = answer.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Answer { status, is_replayed, body })
    }

    /// One request, which must be answered 202.
    pub async fn publish(&self, body: &Value) -> Answer {
        let answer = self.try_publish(body, None).await.expect("an answer");
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer
    }

    /// As a careful backend does it: again, with the same idempotency key, until it is accepted.
    pub async fn publish_surely(&self, body: &Value, key: &str, deadline: Duration) -> Answer {
        let what = format!("{key} is accepted");
        within(deadline, &what, async {
            loop {
                match self.try_publish(body, Some(key)).await {
                    Ok(answer) if answer.status == 202 => return answer,
                    Ok(answer) if answer.status < 500 && answer.status != 409 => {
                        panic!("{key}: {} {}", answer.status, answer.body)
                    }
                    Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        })
        .await
    }
}
