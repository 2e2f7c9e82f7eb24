//! What a simulated device does while it is connected: it acknowledges, follows and leaves topics, marks as read.
//!
//! Owns what a client says of its own accord. It must never judge what arrives; the witness does.

use fanfare::domain::{NotificationId, Stream, TopicName};
use fanfare::inbox::{Mark, Marked};
use fanfare::wire::AckMode;

use super::device::Device;
use super::publisher;
use super::visit::Visit;

impl Device {
    /// Acknowledges some of what it has; all of it when everything is to end well.
    pub fn acknowledge(&self, visit: &mut Visit, all: bool) {
        if self.ack == AckMode::Auto {
            return;
        }
        let standing: Vec<_> =
            visit.witness.standing.iter().map(|(s, at)| (s.clone(), at.acked, at.last)).collect();
        for (stream, acked, last) in standing {
            if acked >= last || !(all || self.stage.chance(60)) {
                continue;
            }
            let seq = if all { last } else { self.stage.pick(acked + 1..=last) };
            visit.witness.acknowledges(&stream, seq);
            let ack = format!(r#"{{"type":"ack","stream":"{}","seq":{seq}}}"#, stream.client_name());
            visit.say(&ack);
        }
    }

    pub fn change_its_mind(&mut self, visit: &mut Visit) {
        if !visit.welcomed || !visit.asked.is_empty() || !self.plan.weather.restless {
            return;
        }
        if let Some(period) = self.plan.fashion {
            return self.follow_fashion(visit, period);
        }
        let topic = self.stage.one_of(&self.world.topics).clone();
        if self.following.contains(&topic) && self.stage.chance(40) {
            self.following.remove(&topic);
            self.leave_topic(visit, &topic);
        } else {
            self.following.insert(topic.clone());
            self.subscribe(visit, &topic);
        }
    }

    /// The one topic that all follow now, and no other.
    fn follow_fashion(&mut self, visit: &mut Visit, period: u64) {
        let topics = &self.world.topics;
        let topic = topics[(self.stage.now().0 / period) as usize % topics.len()].clone();
        if self.following.contains(&topic) {
            return;
        }
        for left in std::mem::take(&mut self.following) {
            self.leave_topic(visit, &left);
        }
        self.following.insert(topic.clone());
        // While others follow it, too, or between what two of them read.
        let within_ms = *self.stage.one_of(&[30, 700]);
        publisher::rush(&self.world, &Stream::Topic(topic.clone()), within_ms);
        self.subscribe(visit, &topic);
    }

    fn leave_topic(&self, visit: &mut Visit, topic: &TopicName) {
        visit.witness.leaves(&Stream::Topic(topic.clone()));
        visit.say(&format!(r#"{{"type":"unsubscribe","topic":"{topic}"}}"#));
    }

    /// What is to be followed in the end is followed.
    pub fn want_everything(&mut self, visit: &mut Visit) {
        if !visit.welcomed || !visit.asked.is_empty() {
            return;
        }
        for topic in self.following.clone() {
            self.subscribe(visit, &topic);
        }
    }

    fn subscribe(&self, visit: &mut Visit, topic: &TopicName) {
        if visit.witness.standing.contains_key(&Stream::Topic(topic.clone())) {
            return;
        }
        let id = visit.frames * 100 + visit.asked.len() as u64;
        let since = self.since(topic);
        visit.asked.insert(id, since.is_some());
        let since = since.map_or_else(String::new, |seq| format!(r#","since":{seq}"#));
        let frame = format!(r#"{{"type":"subscribe","id":{id},"topic":"{topic}"{since}}}"#);
        visit.say(&frame);
    }

    /// Its user has read something, or all up to somewhere.
    pub fn mark_something(&self, visit: &mut Visit) {
        let streams: Vec<&Stream> = visit.witness.standing.keys().collect();
        // Mostly in its own stream.
        let Some(stream) = (if self.stage.chance(70) {
            streams.iter().copied().find(|stream| matches!(stream, Stream::User(_)))
        } else {
            streams.first().copied()
        }) else {
            return;
        };
        let known = {
            let ledger = self.world.shared.store.lock();
            let holder = &ledger.holders[self.holder];
            let Some(got) = holder.got.get(stream) else {
                return;
            };
            let Some(log) = ledger.log(stream, got.epoch) else {
                return;
            };
            let seen = got.received.iter().rev().take(6);
            seen.filter_map(|seq| Some((*seq, log.ever(*seq)?.id))).collect::<Vec<_>>()
        };
        if known.is_empty() {
            return;
        }
        if self.stage.chance(self.plan.marks_at_once) {
            return self.mark_over_http(stream, known);
        }
        let (seq, id) = self.stage.one_of(&known);
        let what = match self.stage.chance(30) {
            true => format!(r#""up_to":{seq}"#),
            false => format!(r#""ids":["{id}"]"#),
        };
        let number = 1_000_000 + visit.frames;
        let name = stream.client_name();
        let frame = format!(r#"{{"type":"read","id":{number},"stream":"{name}",{what}}}"#);
        visit.say(&frame);
    }

    /// Some of `known` are marked one by one, all at once, and the device waits for no answer.
    fn mark_over_http(&self, stream: &Stream, known: Vec<(u64, NotificationId)>) {
        for (_, id) in known.into_iter().take(4) {
            let Some(node) = publisher::any_node(&self.world) else {
                continue;
            };
            let (user, mark) =
                (self.user.clone(), Mark { stream: stream.clone(), marked: Marked::Ids(vec![id]) });
            tokio::spawn(async move {
                node.freezer.thawed().await;
                // Whether it was marked is the store's to say.
                let _ = node.delivery.mark_read(&user, &mark).await;
            });
        }
    }

    /// A place without an epoch, which only means something in a store that is never restored.
    fn since(&self, topic: &TopicName) -> Option<u64> {
        if self.plan.weather.restore || self.stage.chance(60) {
            return None;
        }
        let ledger = self.world.shared.store.lock();
        let got = ledger.holders[self.holder].got.get(&Stream::Topic(topic.clone()))?;
        Some(got.position)
    }
}
