//! The exact account of one fault: what was accepted, what reached each device, what was lost,
//! doubled or out of order.
//!
//! Pure: no clock, no waiting. It judges by numbers that publishers put into `data`, never by the
//! server's own ids: so a notification that was stored twice shows as a double, too.

use std::collections::{HashMap, HashSet};

/// What a publisher writes into `data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mark {
    /// Unique in the whole run.
    pub number: u32,
    /// Who, and its how many-th: within a stream those of one publisher must grow. `None` where nobody
    /// promises an order (over AMQP two nodes take from one queue).
    pub turn: Option<(u16, u32)>,
}

/// How a frame repeats one that its device had got already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Within one connection: never right.
    Within,
    /// Across a reconnect: its ack had not arrived.
    Across,
}

/// The sums of one fault.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    /// Answered 202, or confirmed over AMQP.
    pub published: u64,
    /// Of these over AMQP.
    pub confirmed: u64,
    /// What that makes for all devices concerned.
    pub due: u64,
    /// Arrived at a device and new to it.
    pub delivered: u64,
    /// Of these, as far as the cursors of users' own streams say, acknowledged and committed.
    pub acked: u64,
    /// Frames that repeated an earlier one of the same connection.
    pub doubled_within: u64,
    /// Frames that repeated one of an earlier connection.
    pub doubled_across: u64,
    /// What passed a device's check of seqs a second time.
    pub doubled_past_check: u64,
    /// What overtook an earlier one of the same publisher in the same stream.
    pub out_of_order: u64,
    /// Due and never arrived.
    pub lost: u64,
    /// `gap` frames, and epochs that changed.
    pub gaps: u64,
    /// Connections that ended with a code that forbids to come back, and errors that the server sent.
    pub refused_devices: u64,
    /// Tries of publishers that were answered neither 202 nor with a confirm, and were made again.
    pub tries_again: u64,
    /// Connections made again.
    pub reconnects: u64,
}

/// One device's books, for the whole run.
#[derive(Debug, Default)]
struct Book {
    seen: HashSet<u32>,
    /// Number to its place in the order of acceptance.
    missing: HashMap<u32, u64>,
    turns: HashMap<(String, u16), u32>,
    node: Option<usize>,
}

/// The account.
#[derive(Debug)]
pub struct Account {
    books: Vec<Book>,
    sums: Sums,
    accepted: u64,
    /// Everything accepted up to here …
    cut: u64,
    /// … of which so much is missing.
    missing_before_cut: usize,
    missing: usize,
    connected: usize,
    complaints: Vec<String>,
}

/// Complaints that are kept for the report.
const COMPLAINTS: usize = 20;

impl Account {
    /// Of so many devices.
    pub fn new(devices: usize) -> Self {
        Self {
            books: (0..devices).map(|_| Book::default()).collect(),
            sums: Sums::default(),
            accepted: 0,
            cut: 0,
            missing_before_cut: 0,
            missing: 0,
            connected: 0,
            complaints: vec![],
        }
    }

    /// Starts the sums of another fault. What was seen stays known.
    pub fn begin(&mut self) {
        self.sums = Sums::default();
        self.complaints.clear();
    }

    /// A notification was accepted: from now on each of these devices must get it.
    pub fn on_accepted(&mut self, number: u32, devices: &[usize]) {
        self.accepted += 1;
        self.sums.published += 1;
        self.sums.due += devices.len() as u64;
        for device in devices {
            let book = &mut self.books[*device];
            if !book.seen.contains(&number) {
                book.missing.insert(number, self.accepted);
                self.missing += 1;
            }
        }
    }

    /// A notification has passed the device's own check of seqs.
    pub fn on_arrived(&mut self, device: usize, stream: &str, mark: Mark) {
        let book = &mut self.books[device];
        if !book.seen.insert(mark.number) {
            self.sums.doubled_past_check += 1;
            self.complain(format!("device {device} got number {} of {stream} twice", mark.number));
            return;
        }
        self.sums.delivered += 1;
        if let Some(place) = book.missing.remove(&mark.number) {
            self.missing -= 1;
            self.missing_before_cut -= usize::from(place <= self.cut);
        }
        let Some((by, turn)) = mark.turn else { return };
        let last = book.turns.entry((stream.to_owned(), by)).or_default();
        if turn <= *last {
            let complaint =
                format!("device {device}: turn {turn} of publisher {by} after its {last} in {stream}");
            self.sums.out_of_order += 1;
            self.complain(complaint);
        } else {
            *last = turn;
        }
    }

    /// A frame was dropped by the device's check of seqs.
    pub fn on_repeat(&mut self, device: usize, repeat: Repeat) {
        match repeat {
            Repeat::Across => self.sums.doubled_across += 1,
            Repeat::Within => {
                self.sums.doubled_within += 1;
                self.complain(format!("device {device} got a seq twice within one connection"));
            }
        }
    }

    /// A device was told of a loss.
    pub fn on_gap(&mut self, device: usize, what: &str) {
        self.sums.gaps += 1;
        self.complain(format!("device {device}: {what}"));
    }

    /// The server sent an error, or closed for good.
    pub fn on_refused(&mut self, device: usize, what: &str) {
        self.sums.refused_devices += 1;
        self.complain(format!("device {device}: {what}"));
    }

    /// A publisher has to try again.
    pub fn on_try_again(&mut self) {
        self.sums.tries_again += 1;
    }

    /// What was just accepted was confirmed over AMQP.
    pub fn on_confirmed(&mut self) {
        self.sums.confirmed += 1;
    }

    /// A device was welcomed by a node.
    pub fn on_welcome(&mut self, device: usize, node: usize) {
        self.sums.reconnects += 1;
        self.connected += usize::from(self.books[device].node.replace(node).is_none());
    }

    /// A device has lost its connection.
    pub fn on_lost_connection(&mut self, device: usize) {
        self.connected -= usize::from(self.books[device].node.take().is_some());
    }

    /// Where a device is connected.
    pub fn node_of(&self, device: usize) -> Option<usize> {
        self.books[device].node
    }

    /// How many devices are connected, and how many there are.
    pub fn connected(&self) -> (usize, usize) {
        (self.connected, self.books.len())
    }

    /// From now on [`Self::is_caught_up`] speaks of what was accepted until now.
    pub fn cut(&mut self) {
        self.cut = self.accepted;
        self.missing_before_cut = self.missing;
    }

    /// Whether every device has everything that was accepted before the cut.
    pub fn is_caught_up(&self) -> bool {
        self.missing_before_cut == 0
    }

    /// Whether every device has everything.
    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// How many notifications have been accepted in the whole run.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// How many of the first `accepted` are missing at the devices that `concerned` names.
    pub fn missing_of(&self, accepted: u64, concerned: impl Fn(usize) -> bool) -> usize {
        let books = self.books.iter().enumerate().filter(|(device, _)| concerned(*device));
        books.map(|(_, book)| book.missing.values().filter(|place| **place <= accepted).count()).sum()
    }

    /// The sums until now.
    pub fn sums(&self) -> &Sums {
        &self.sums
    }

    /// Ends a fault: what is missing now is lost, and of what was delivered `unacked` were not acknowledged.
    pub fn close(&mut self, unacked: u64) -> (Sums, Vec<String>) {
        self.sums.acked = self.sums.delivered.saturating_sub(unacked);
        let mut complaints = std::mem::take(&mut self.complaints);
        for (device, book) in self.books.iter_mut().enumerate() {
            self.sums.lost += book.missing.len() as u64;
            for number in book.missing.keys() {
                if complaints.len() < COMPLAINTS {
                    complaints.push(format!("device {device} never got number {number}"));
                }
            }
            book.missing.clear();
        }
        (self.missing, self.missing_before_cut) = (0, 0);
        (std::mem::take(&mut self.sums), complaints)
    }

    fn complain(&mut self, what: String) {
        if self.complaints.len() < COMPLAINTS {
            self.complaints.push(what);
        }
    }
}
