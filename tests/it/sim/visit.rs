//! A visit: one connection of a device, and what the device says over it.
//!
//! Owns what is on its way to a node that stands still. It must never judge what arrives; the witness does.

use std::collections::BTreeMap;
use std::sync::Arc;

use fanfare::delivery::Connection;
use fanfare::wire::Frame;
use serde_json::Value;
use tokio::time::Instant;

use super::freeze::Freezer;
use super::line::Line;
use super::witness::Witness;

/// What a client sends.
enum Word {
    Text(String),
    Pong,
}

/// One connection of a device.
pub struct Visit {
    pub line: Arc<Line>,
    pub connection: Arc<Connection>,
    pub witness: Witness,
    pub freezer: Freezer,
    pub welcomed: bool,
    /// Subscribes that have no answer yet, and whether there was a place in them.
    pub asked: BTreeMap<u64, bool>,
    pub frames: u64,
    /// When something arrived last.
    pub heard: Instant,
    /// What a node that stands still has not taken.
    waiting: Vec<Word>,
}

impl Visit {
    pub fn new(line: Arc<Line>, connection: Arc<Connection>, witness: Witness, freezer: Freezer) -> Self {
        Self {
            line,
            connection,
            witness,
            freezer,
            welcomed: false,
            asked: BTreeMap::new(),
            frames: 0,
            heard: Instant::now(),
            waiting: Vec::new(),
        }
    }

    /// Sends a text frame.
    pub fn say(&mut self, text: &str) {
        self.witness.stage.say(format_args!("{}: > {text}", self.witness.name));
        self.send(Word::Text(text.to_owned()));
    }

    /// Answers a ping frame.
    pub fn pong(&mut self) {
        self.witness.stage.say(format_args!("{}: pong", self.witness.name));
        self.send(Word::Pong);
    }

    fn send(&mut self, word: Word) {
        self.waiting.push(word);
        if !self.freezer.is_frozen() {
            self.flush();
        }
    }

    /// Hands over what has waited.
    pub fn flush(&mut self) {
        for word in std::mem::take(&mut self.waiting) {
            match word {
                Word::Text(text) => self.connection.on_text(&text),
                Word::Pong => self.connection.on_pong(),
            }
        }
    }
}

/// The text of a frame, whose header the server wrote.
pub fn json(frame: &Frame) -> Value {
    let header = match frame.head[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let whole: Vec<u8> = frame.head[header..].iter().chain(frame.body.iter()).copied().collect();
    serde_json::from_slice(&whole).expect("the server speaks JSON")
}

/// A frame for the trace.
pub fn brief(frame: &Value) -> String {
    match frame["type"].as_str() {
        Some("notification") => format!("notification {} {}", frame["stream"], frame["seq"]),
        Some("welcome") => format!("welcome {} version {}", frame["streams"], frame["version"]),
        _ => frame.to_string(),
    }
}
