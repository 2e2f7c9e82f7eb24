//! One GET of a key set over HTTP.
//!
//! Owns what is taken of the answer: status 200, a bounded body. It never follows a redirect, and no error of it
//! shows the URL.

use std::error::Error;

use reqwest::header::ACCEPT;
use reqwest::{Client, StatusCode, Url, redirect};

use super::{FetchError, Source};
use crate::auth::{Secret, SetKeys};

/// The largest set: 64 keys of 4096 bits with their certificates have half of it.
const MAX_BYTES: usize = 512 * 1_024;

/// Fetches from a URL.
pub struct Download {
    client: Client,
    url: Secret,
}

impl Download {
    /// From `url`. The TLS provider must be installed.
    ///
    /// # Errors
    /// If the system's certificates cannot be read.
    pub fn new(url: Secret) -> Result<Self, reqwest::Error> {
        let builder = Client::builder().redirect(redirect::Policy::none()).referer(false);
        // What is on this machine must not be asked for by way of another one.
        let is_plain = Url::parse(url.expose()).is_ok_and(|url| url.scheme() == "http");
        let builder = if is_plain { builder.no_proxy() } else { builder.https_only(true) };
        Ok(Self { client: builder.build()?, url })
    }
}

impl Source for Download {
    async fn fetch(&mut self) -> Result<SetKeys, FetchError> {
        let request = self.client.get(self.url.expose());
        let request = request.header(ACCEPT, "application/jwk-set+json, application/json");
        let mut answer = request.send().await.map_err(unreachable)?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(FetchError::TooLarge { limit: MAX_BYTES });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(SetKeys::read(&body)?)
    }
}

/// The innermost cause says what happened; the outer ones say that something did.
fn unreachable(error: reqwest::Error) -> FetchError {
    let error = error.without_url();
    let mut cause: &dyn Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    FetchError::Unreachable(cause.to_string())
}
