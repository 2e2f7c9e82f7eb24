//! What the person sees: notifications on standard output, everything else on standard error.

use serde_json::Value;

use super::super::failure::Failure;
use super::super::output::{self, bold, dim, harmless};

/// Prints, and counts what it has printed.
pub(super) struct Show {
    json: bool,
    coloured: bool,
    /// Notifications still to be shown; `None`: no end.
    left: Option<u64>,
}

impl Show {
    pub(super) fn new(json: bool, count: Option<u64>) -> Self {
        Self {
            json,
            coloured: output::has_colours() && !json,
            left: count,
        }
    }

    /// Whether as many notifications as were asked for have been shown.
    pub(super) fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// Something about the connection, for people only.
    #[expect(
        clippy::unused_self,
        reason = "where status goes is this type's decision"
    )]
    pub(super) fn status(&self, text: &str) {
        eprintln!("fanfare: {}", harmless(text));
    }

    /// A notification; `frame` is the text that it came in.
    pub(super) fn notification(
        &mut self,
        place: &str,
        notification: &Value,
        frame: &str,
    ) -> Result<(), Failure> {
        if self.json {
            self.frame(frame)?;
        } else {
            output::line(&self.in_words(place, notification))?;
        }
        self.left = self.left.map(|left| left.saturating_sub(1));
        Ok(())
    }

    /// Anything else that happened in a stream.
    pub(super) fn event(&self, place: &str, text: &str, frame: &str) -> Result<(), Failure> {
        if self.json {
            self.frame(frame)
        } else {
            let place = dim(&harmless(place), self.coloured);
            output::line(&format!("{place}  {}", harmless(text)))
        }
    }

    /// One line of JSON, even if the server's had several.
    fn frame(&self, frame: &str) -> Result<(), Failure> {
        if frame.contains(['\n', '\r']) {
            let value: Value = serde_json::from_str(frame).unwrap_or_default();
            return output::line(&value.to_string());
        }
        output::line(frame)
    }

    fn in_words(&self, place: &str, notification: &Value) -> String {
        let text = |name: &str| {
            let text = notification.get(name).and_then(Value::as_str);
            text.map(harmless)
        };
        let data = notification.get("data").filter(|data| !data.is_null());
        let parts = [
            Some(dim(&harmless(place), self.coloured)),
            text("type").map(|kind| format!("[{kind}]")),
            text("title").map(|title| bold(&title, self.coloured)),
            text("body"),
            data.map(|data| dim(&harmless(&data.to_string()), self.coloured)),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        parts.join("  ")
    }
}
