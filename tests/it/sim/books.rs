//! What the store answers, of one moment: opens, pages, heads.
//!
//! Owns the rules of `fanfare::inbox::Streams` as plain functions of the ledger.

use fanfare::domain::{DeviceId, Seq, Stream, UnixMillis};
use fanfare::inbox::{Audience, Content, Entry, Head, Open, Opened, Page, Read};

use super::ledger::{Kept, Ledger, Log, Place};

/// What a replica knew at `stale` (all, if it is `None`): its head.
fn head_of(log: &Log, stale: Option<UnixMillis>) -> u64 {
    let Some(now) = stale else { return log.head };
    // A replica applies commits in their order: nothing behind one that has not arrived.
    let late = log.entries.iter().find(|(_, kept)| kept.replicated_at > now);
    late.map_or(log.head, |(seq, _)| seq - 1)
}

/// Opens a stream; `keep`: whether the cursor is durable when it answers.
pub fn open(ledger: &mut Ledger, request: &Open, stale: Option<UnixMillis>, keep: bool) -> Opened {
    let epoch = ledger.epoch;
    let log = ledger.life().logs.entry(request.stream.clone()).or_default().clone();
    let (head, floor) = (head_of(&log, stale), log.floor);
    let stored = cursor(ledger, request);
    let believed = match (&request.resume, stored) {
        (Some(resume), _) => Some((resume.epoch, resume.seq.0)),
        (None, Some(place)) => Some((Some(place.epoch), place.acked)),
        (None, None) => None,
    };
    let (position, gap_from) = match believed {
        Some((of, seq)) if of.is_none_or(|of| of == epoch) && seq <= head && seq >= floor => (seq, None),
        Some((_, seq)) => (floor, Some(Seq(seq))),
        None => (first_start(ledger, request, &log, head), None),
    };
    if let (Some(device), true) = (&request.device, keep) {
        ledger.life().devices.entry(request.user.clone()).or_default().insert(device.clone());
        if stored.is_none_or(|place| place.epoch != epoch || place.acked > log.head) {
            let key = (request.user.clone(), device.clone(), request.stream.clone());
            ledger.life().cursors.insert(key, Place { epoch, start: position, acked: position });
        }
    }
    Opened {
        epoch,
        head: Seq(head),
        floor: Seq(floor),
        position: Seq(position),
        gap_from,
        unread: 0,
        version: head,
        reads: 0,
    }
}

fn cursor(ledger: &mut Ledger, request: &Open) -> Option<Place> {
    let key = (request.user.clone(), request.device.clone()?, request.stream.clone());
    ledger.life().cursors.get(&key).copied()
}

/// Rules 3 to 5. Nobody marks anything as read here, so what nobody acknowledged is unread.
fn first_start(ledger: &mut Ledger, request: &Open, log: &Log, head: u64) -> u64 {
    let (Some(device), Stream::User(_)) = (&request.device, &request.stream) else {
        return head;
    };
    let life = ledger.life();
    let others = life.devices.get(&request.user).is_some_and(|all| all.iter().any(|one| one != device));
    if !others {
        return log.floor;
    }
    let of_user = life
        .cursors
        .iter()
        .filter(|((user, _, stream), _)| *user == request.user && *stream == request.stream);
    let acked = of_user.map(|(_, place)| place.acked).max().unwrap_or(0);
    let unread = |kept: &Kept| kept.device.is_none() || kept.device.as_ref() == Some(device);
    let lowest = log.entries.range(acked + 1..).find(|(seq, kept)| **seq <= head && unread(kept));
    lowest.map_or(head, |(seq, _)| seq - 1).max(log.floor)
}

/// A page, all of one moment.
pub fn page(ledger: &Ledger, request: &Read, now: UnixMillis, stale: Option<UnixMillis>) -> Page {
    let epoch = ledger.epoch;
    let empty = Log::default();
    let log = ledger.log(&request.stream, epoch).unwrap_or(&empty);
    let head = head_of(log, stale);
    let after = request.after.0.max(log.floor);
    let mut page =
        Page { epoch, floor: Seq(log.floor), head: Seq(head), through: Seq(head), entries: Vec::new() };
    let mut bytes = 0;
    for (seq, kept) in log.entries.range(after + 1..).take_while(|(seq, _)| **seq <= head) {
        if kept.expires_at.is_some_and(|at| at <= now) || !is_for(&request.audience, kept.device.as_ref()) {
            continue;
        }
        bytes += kept.json.len();
        let full = page.entries.len() == request.max_entries.max(1) as usize || bytes > request.max_bytes;
        if full && let Some(last) = page.entries.last() {
            page.through = last.seq;
            break;
        }
        page.entries.push(Entry {
            seq: Seq(*seq),
            device: kept.device.clone(),
            expires_at: kept.expires_at,
            content: Content::Notification { json: kept.json.clone(), is_read: false },
        });
    }
    page
}

fn is_for(audience: &Audience, target: Option<&DeviceId>) -> bool {
    match audience {
        Audience::All => true,
        Audience::Device(device) => target.is_none() || target == device.as_ref(),
    }
}

/// Where streams stand.
pub fn heads<'a>(ledger: &Ledger, streams: impl Iterator<Item = &'a Stream>) -> Vec<Head> {
    let epoch = ledger.epoch;
    let head = |stream: &Stream| Head {
        epoch,
        head: Seq(ledger.log(stream, epoch).map_or(0, |log| log.head)),
        reads: 0,
    };
    streams.map(head).collect()
}
