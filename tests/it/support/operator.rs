//! An operator at a node's admin listener.

use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;

use super::backends::http_client;
use super::tokens::Credentials;

/// Asks one node's admin listener, with an administrator's token.
#[derive(Debug, Clone)]
pub struct Operator {
    client: Client,
    url: String,
    token: String,
}

impl Operator {
    /// At `admin_url`.
    pub fn new(admin_url: &str, credentials: &Credentials) -> Self {
        let (url, token) = (admin_url.to_owned(), credentials.admin_token.clone());
        Self { client: http_client(), url, token }
    }

    /// `GET path`: the status and the body, which is text if it is not JSON.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.request(Method::GET, path).await
    }

    /// `POST path` without a body.
    pub async fn post(&self, path: &str) -> (u16, Value) {
        self.request(Method::POST, path).await
    }

    /// `POST path` with this body.
    pub async fn post_json(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = self.client.post(format!("{}{path}", self.url));
        let request = request.header("content-type", "application/json").body(body.to_string());
        self.send(path, request).await
    }

    /// `DELETE path`.
    pub async fn delete(&self, path: &str) -> (u16, Value) {
        self.request(Method::DELETE, path).await
    }

    /// The sum of all series of a metric (its full name, such as `fanfare_x_total`); 0 if it has none yet.
    pub async fn metric(&self, name: &str) -> f64 {
        let (status, text) = self.get("/metrics").await;
        assert_eq!(status, 200, "{text}");
        let text = text.as_str().expect("metrics are no JSON");
        text.lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter(|rest| rest.starts_with([' ', '{']))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    async fn request(&self, method: Method, path: &str) -> (u16, Value) {
        self.send(path, self.client.request(method, format!("{}{path}", self.url))).await
    }

    async fn send(&self, path: &str, request: RequestBuilder) -> (u16, Value) {
        let answer = request.bearer_auth(&self.token).send().await;
        let answer = answer.unwrap_or_else(|error| panic!("{path}: {error}"));
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }
}
