//! What the store answers, of one moment: opens, pages, heads, unread counts.
//!
//! Owns the rules of `fanfare::inbox::Streams` as plain functions of the ledger.

use fanfare::domain::{DeviceId, Epoch, Seq, Stream, UnixMillis, UserId};
use fanfare::inbox::{Audience, Entry, Head, Open, Opened, Page, Read, Unread};

use super::ledger::{Ended, Kept, Ledger, Life, Log, Place};
use super::plan::Plant;

/// What a replica knew at `stale` (all, if it is `None`): its head.
fn head_of(log: &Log, stale: Option<UnixMillis>) -> u64 {
    let Some(now) = stale else { return log.head };
    // A replica applies commits in their order: nothing behind one that has not arrived.
    let late = log.entries.iter().find(|(_, kept)| kept.replicated_at > now);
    late.map_or(log.head, |(seq, _)| seq - 1)
}

/// Opens a stream; `stale`: what a reader knows that is behind.
pub fn open(
    ledger: &mut Ledger,
    request: &Open,
    now: UnixMillis,
    stale: Option<UnixMillis>,
    plant: Plant,
) -> Opened {
    let epoch = ledger.epoch;
    let stored = cursor(ledger, request);
    let log = ledger.life().logs.entry(request.stream.clone()).or_default();
    let (whole, head, floor) = (log.head, head_of(log, stale), log.floor);
    let believed = match (&request.resume, stored) {
        (Some(resume), _) => Some((resume.epoch, resume.seq.0)),
        (None, Some(place)) => Some((Some(place.epoch), place.acked)),
        (None, None) => None,
    };
    let (position, gap_from) = match believed {
        Some((of, seq)) if of.is_none_or(|of| of == epoch) && seq <= head && seq >= floor => (seq, None),
        Some((_, seq)) => (floor, Some(Seq(seq))),
        None if plant == Plant::StartAtHead => (head, None),
        None => (first_start(ledger, request, head), None),
    };
    if let (Some(device), true) = (&request.device, plant != Plant::CursorLater) {
        let life = ledger.life();
        life.devices.entry(request.user.clone()).or_default().insert(device.clone());
        let of_this_life = |of: Epoch, seq: u64| of == epoch && seq <= whole;
        let is_stranger = request.resume.is_some_and(|at| !of_this_life(at.epoch.unwrap_or(epoch), at.seq.0));
        let stands = |at: Place| of_this_life(at.epoch, at.acked) && !(is_stranger && at.acked > position);
        if !stored.is_some_and(stands) {
            let key = (request.user.clone(), device.clone(), request.stream.clone());
            life.cursors.insert(key, Place { epoch, start: position, acked: position });
        }
    }
    let of_user = match request.stream {
        Stream::User(_) => unread(ledger.now(), &request.user, now),
        Stream::Topic(_) | Stream::Everyone => Unread::default(),
    };
    Opened {
        epoch,
        head: Seq(head),
        floor: Seq(floor),
        position: Seq(position),
        cursor: match (&request.resume, stored) {
            (Some(_), Some(place)) if place.epoch == epoch => Seq(place.acked.min(position)),
            _ => Seq(position),
        },
        gap_from,
        unread: of_user.unread,
        version: of_user.version,
        reads: of_user.reads,
    }
}

fn cursor(ledger: &Ledger, request: &Open) -> Option<Place> {
    let key = (request.user.clone(), request.device.clone()?, request.stream.clone());
    ledger.now().cursors.get(&key).copied()
}

/// Rules 3 to 5.
fn first_start(ledger: &Ledger, request: &Open, head: u64) -> u64 {
    let (Some(device), Stream::User(_)) = (&request.device, &request.stream) else {
        return head;
    };
    let life = ledger.now();
    let log = &life.logs[&request.stream];
    let others = life.devices.get(&request.user).is_some_and(|all| all.iter().any(|one| one != device));
    if !others {
        return log.floor;
    }
    let of_user = life
        .cursors
        .iter()
        .filter(|((user, _, stream), _)| *user == request.user && *stream == request.stream);
    let acked = of_user.map(|(_, place)| place.acked).max().unwrap_or(0);
    let unread = |kept: &Kept| {
        let for_it = kept.device.is_none() || kept.device.as_ref() == Some(device);
        for_it && kept.cancels.is_none() && kept.read.is_none() && kept.ended.is_none()
    };
    let lowest = log.entries.range(acked + 1..).find(|(seq, kept)| **seq <= head && unread(kept));
    lowest.map_or(head, |(seq, _)| seq - 1).max(log.floor)
}

/// A page, all of one moment.
pub fn page(
    ledger: &Ledger,
    request: &Read,
    now: UnixMillis,
    stale: Option<UnixMillis>,
    plant: Plant,
) -> Page {
    let epoch = ledger.epoch;
    let empty = Log::default();
    let log = ledger.log(&request.stream, epoch).unwrap_or(&empty);
    let head = head_of(log, stale);
    let after = request.after.0.max(log.floor);
    let mut page =
        Page { epoch, floor: Seq(log.floor), head: Seq(head), through: Seq(head), entries: Vec::new() };
    let mut bytes = 0;
    for (seq, kept) in log.entries.range(after + 1..).take_while(|(seq, _)| **seq <= head) {
        if !is_for(&request.audience, kept.device.as_ref()) || is_absent(kept, log, *seq, now, plant) {
            continue;
        }
        let content = kept.content();
        bytes += content.len();
        let full = page.entries.len() == request.max_entries.max(1) as usize || bytes > request.max_bytes;
        if full && let Some(last) = page.entries.last() {
            page.through = last.seq;
            break;
        }
        let expires_at = kept.expires_at.filter(|_| plant != Plant::ExpiredKept);
        page.entries.push(Entry { seq: Seq(*seq), device: kept.device.clone(), expires_at, content });
    }
    page
}

/// Whether a read passes the entry by.
fn is_absent(kept: &Kept, log: &Log, seq: u64, now: UnixMillis, plant: Plant) -> bool {
    if kept.is_expired(now) && plant != Plant::ExpiredKept
        || plant == Plant::LateVisible && kept.replicated_at > now
    {
        return true;
    }
    let newest = || kept.collapse.clone().and_then(|key| log.newest.get(&(kept.device.clone(), key)));
    match kept.ended {
        Some((Ended::Cancelled, _)) => plant != Plant::CancelledKept,
        Some((Ended::Superseded, _)) if plant == Plant::CollapsedKept => false,
        Some((Ended::Superseded, _)) if plant == Plant::RevivedByCancel => {
            let by = newest().and_then(|by| log.entries.get(by));
            by.is_some_and(|by| by.ended.is_none())
        }
        Some((Ended::Superseded, _)) => true,
        // The append that superseded it may have missed it.
        None => plant != Plant::CollapsedKept && newest().is_some_and(|by| *by > seq),
    }
}

fn is_for(audience: &Audience, target: Option<&DeviceId>) -> bool {
    match audience {
        Audience::All => true,
        Audience::Device(device) => target.is_none() || target == device.as_ref(),
    }
}

/// Where streams stand.
pub fn heads<'a>(ledger: &Ledger, streams: impl Iterator<Item = &'a Stream>, plant: Plant) -> Vec<Head> {
    let epoch = ledger.epoch;
    let reads = |stream: &Stream| match stream {
        Stream::User(user) if plant != Plant::MarksForgotten => {
            ledger.now().readers.get(user).map_or(0, |reader| reader.reads)
        }
        _ => 0,
    };
    let head = |stream: &Stream| Head {
        epoch,
        head: Seq(ledger.log(stream, epoch).map_or(0, |log| log.head)),
        reads: reads(stream),
    };
    streams.map(head).collect()
}

/// How much of the own stream is unread.
pub fn unread(life: &Life, user: &UserId, now: UnixMillis) -> Unread {
    let reads = life.readers.get(user).map_or(0, |reader| reader.reads);
    let Some(log) = life.logs.get(&Stream::User(user.clone())) else {
        return Unread { unread: 0, version: life.version_base + reads, reads };
    };
    let is_unread = |kept: &&Kept| {
        kept.cancels.is_none() && kept.read.is_none() && kept.ended.is_none() && !kept.is_expired(now)
    };
    let unread = log.entries.values().filter(is_unread).count() as u64;
    Unread { unread, version: life.version_base + log.head + reads, reads }
}
