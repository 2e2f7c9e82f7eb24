//! The verdict: what must hold after each step, and in the end.
//!
//! Owns the whole guarantee as questions to the ledger. What a single frame may be is the witness's.

use std::time::Duration;

use fanfare::domain::Stream;

use super::held::Holder;
use super::ledger::{Ledger, Life};
use super::scenario::World;
use super::stage::{Kind, Stage};

/// How long after its time a schedule may fire.
const LATE_MS: u64 = 4_000;

/// Whatever was accepted is acknowledged, in the inbox, or in a terminal state; whoever is connected has it soon.
pub fn check_step(stage: &Stage, world: &World) {
    let ledger = world.shared.store.lock();
    for id in ledger.lost() {
        stage.find(Kind::Unkept, format_args!("{id} was accepted and is gone"));
    }
    check_prompt(stage, &ledger, world.shared.plan.prompt);
    drop(ledger);
    world.shared.roll.check(stage, &world.shared.plan);
}

/// Nobody who has been connected for so long waits for what has been there for so long.
fn check_prompt(stage: &Stage, ledger: &Ledger, prompt: Duration) {
    let now = stage.now();
    for (number, streams) in &ledger.open {
        let holder = &ledger.holders[*number];
        for (stream, _) in streams.iter().filter(|(_, since)| since.after(prompt) <= now) {
            let Some(got) = holder.got.get(stream).filter(|got| got.epoch == ledger.epoch) else {
                continue;
            };
            let Some(log) = ledger.log(stream, got.epoch) else {
                continue;
            };
            let is_late = |seq: &u64| log.entries[seq].entered_at.after(prompt) <= now;
            let missing = ledger.missing(*number, stream, got.position, log.head, now);
            if let Some(late) = missing.into_iter().find(is_late) {
                let who = format!("{}/{:?}", holder.user, holder.device);
                let text = format_args!("{who} at {} of {stream} still waits for {late}", got.position);
                stage.find(Kind::Stall, text);
            }
        }
    }
}

/// Everybody has everything that was meant for them and that they follow, and knows what was read.
pub fn check_end(stage: &Stage, world: &World) {
    check_step(stage, world);
    let ledger = world.shared.store.lock();
    let mut found = Vec::new();
    let now = stage.now();
    for (id, later) in &ledger.now().schedules {
        if now.0 > later.fire_at.0 + LATE_MS {
            found.push((Kind::Unkept, format!("{id} was to be published at {}", later.fire_at)));
        }
    }
    for (number, holder) in ledger.holders.iter().enumerate() {
        check_streams(stage, &ledger, number, &mut found);
        check_reads(&ledger, number, holder, &mut found);
    }
    drop(ledger);
    found.into_iter().for_each(|(kind, text)| stage.find(kind, text));
}

fn check_streams(stage: &Stage, ledger: &Ledger, number: usize, found: &mut Vec<(Kind, String)>) {
    let (holder, now) = (&ledger.holders[number], stage.now());
    let own = Stream::User(holder.user.clone());
    let who = format!("{}/{:?}", holder.user, holder.device);
    for stream in [own, Stream::Everyone] {
        if !holder.got.contains_key(&stream) {
            found.push((Kind::Stall, format!("{who} never got to know {stream}")));
        }
    }
    for (stream, got) in &holder.got {
        let followed = is_followed(ledger, number, stream);
        if got.epoch != ledger.epoch {
            // A topic that it does not follow any more stays as it was.
            if !matches!(stream, Stream::Topic(_)) {
                found.push((Kind::Stall, format!("{who} does not know of the new life of {stream}")));
            }
            continue;
        }
        let Some(log) = ledger.log(stream, got.epoch) else {
            continue;
        };
        // Of a topic that it left, what came later is due when it comes back.
        let to = if followed { log.head } else { got.position };
        let start = due_from(ledger, holder, stream).map_or(got.start, |start| start.min(got.start));
        for seq in ledger.missing(number, stream, start, to, now) {
            let kind = if seq <= got.position { Kind::Loss } else { Kind::Stall };
            found.push((kind, format!("{who} at {} of {stream} has no {seq}", got.position)));
        }
        for seq in ledger.gone_untold(number, stream, now).into_iter().filter(|seq| *seq <= got.position) {
            found.push((Kind::Loss, format!("{who} was not told that {seq} of {stream} is gone")));
        }
        for seq in ledger.uncancelled(number, stream, now).into_iter().filter(|_| followed) {
            found
                .push((Kind::Uncancelled, format!("{who} was not told that {seq} of {stream} is cancelled")));
        }
    }
}

/// Whoever was connected when something was marked knows it; all know how much is unread.
fn check_reads(ledger: &Ledger, number: usize, holder: &Holder, found: &mut Vec<(Kind, String)>) {
    let life = ledger.now();
    let Some(reader) = life.readers.get(&holder.user) else {
        return;
    };
    let (view, who) = (&holder.view, format!("{}/{:?}", holder.user, holder.device));
    if let Some(last) = reader.last {
        let (told, count) = (view.version, view.unread);
        let wrong_count = told == last.version && count != last.unread && !changes_by_itself(life, holder);
        if told < last.version || wrong_count {
            found.push((Kind::Read, format!("{who} knows {count} unread at {told}, not {last:?}")));
        }
    }
    for ((stream, seq), (_, version)) in &reader.marks {
        if *version <= view.welcomed || !is_followed(ledger, number, stream) {
            continue;
        }
        let Some(kept) = life.logs.get(stream).and_then(|log| log.entries.get(seq)) else {
            continue;
        };
        let told = view.ids.contains(&kept.id) || view.up_to.get(stream).is_some_and(|up_to| up_to >= seq);
        if !told {
            found.push((Kind::Read, format!("{who} was not told that {seq} of {stream} is read")));
        }
    }
}

/// Whether the unread count may have changed without a new version: by expiry, or by retention.
fn changes_by_itself(life: &Life, holder: &Holder) -> bool {
    let log = life.logs.get(&Stream::User(holder.user.clone()));
    log.is_some_and(|log| log.floor > 0 || log.entries.values().any(|kept| kept.expires_at.is_some()))
}

/// Where the stored cursor of the device began.
fn due_from(ledger: &Ledger, holder: &Holder, stream: &Stream) -> Option<u64> {
    let key = (holder.user.clone(), holder.device.clone()?, stream.clone());
    let place = ledger.now().cursors.get(&key)?;
    (place.epoch == ledger.epoch).then_some(place.start)
}

fn is_followed(ledger: &Ledger, holder: usize, stream: &Stream) -> bool {
    match stream {
        Stream::User(_) | Stream::Everyone => true,
        Stream::Topic(topic) => ledger.follows.get(&holder).is_some_and(|topics| topics.contains(topic)),
    }
}
