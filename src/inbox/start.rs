//! Where a session starts in a stream.
//!
//! Owns the rules of [`super::Streams::open`] and the order of its steps: look, take a place
//! for a new device, keep the cursor. No lock spans them, and none is needed: whatever
//! changes after the look only adds entries above the head that was seen, or lets others
//! acknowledge more, so that a start is too low at worst, never too high.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::failure::Failure;
use super::{InboxError, Open, Opened};
use crate::domain::{DeviceId, Epoch, Seq, Stream, UnixMillis, UserId};

/// How often somebody else may snatch a device's place before the call gives up; each time
/// another device was let in, so more than `max_devices` rounds are never needed.
const SPARE_ROUNDS: u32 = 16;

/// How stale the note of a device's last use may get: it only serves to forget devices that were
/// idle for months, so a write at every reconnect would be waste.
const USED_EVERY: Duration = Duration::from_secs(3600);
/// The same for the cursor of a topic, whose end comes as late: [`super::Upkeep::remove_unused_cursors`].
const CURSOR_USED_EVERY: Duration = Duration::from_secs(24 * 3600);

/// What a store knows about an [`Open`], all of one snapshot.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) epoch: Epoch,
    pub(super) head: Seq,
    pub(super) floor: Seq,
    /// The device's cursor: its epoch and what it acknowledged.
    pub(super) cursor: Option<(Epoch, Seq)>,
    /// When that was last used.
    pub(super) cursor_used: Option<UnixMillis>,
    /// Whether it is known from where on the user follows it, if it is shared.
    pub(super) follows: bool,
    /// When the device was last used, if it is known.
    pub(super) last_used: Option<UnixMillis>,
    /// How many other devices the user has.
    pub(super) others: u32,
    /// As [`Opened::unread`] has it.
    pub(super) unread: u64,
    /// The user's own stream: the lowest of these that is for this device and above what any device has
    /// acknowledged.
    pub(super) lowest: Option<Seq>,
    /// What the head and `reads` are added to for the unread version: where versions of this store start, and
    /// for a stream that is not there the furthest that any erased one had come.
    pub(super) version_base: u64,
    /// The user's own stream: how often the user marked something as read.
    pub(super) reads: u64,
}

/// A cursor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placing {
    pub(super) user: UserId,
    pub(super) device: DeviceId,
    pub(super) stream: Stream,
    pub(super) epoch: Epoch,
    pub(super) start: Seq,
    /// The cursor that it replaces, if that is still there; without one, it is only written
    /// if there is none.
    pub(super) replaces: Option<(Epoch, Seq)>,
}

/// A store in which sessions start.
pub(super) trait Starts: Sync {
    /// Looks; answers in the same order, each of one snapshot.
    fn find(
        &self,
        requests: &[&Open],
        now: UnixMillis,
    ) -> impl Future<Output = Result<Vec<Found>, Failure>> + Send;
    /// Takes a place for new devices, at most one a user; returns those that got one.
    fn add_devices(
        &self,
        devices: &[(UserId, DeviceId)],
        now: UnixMillis,
    ) -> impl Future<Output = Result<Vec<(UserId, DeviceId)>, Failure>> + Send;
    /// Remembers that devices were used.
    fn touch_devices(
        &self,
        devices: &[(UserId, DeviceId)],
        now: UnixMillis,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Remembers that cursors were used: as `place`, but one that is there stays and was used now. One that was removed
    /// since it was looked at is there again.
    fn keep(&self, cursors: &[Placing], now: UnixMillis) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Writes cursors, durably; each names another (user, device, stream), in order.
    fn place(&self, cursors: &[Placing], now: UnixMillis)
    -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Opens as [`super::Streams::open`] promises.
pub(super) async fn open(
    store: &impl Starts,
    requests: &[Open],
    max_devices: u32,
    now: UnixMillis,
) -> Vec<Result<Opened, InboxError>> {
    match opened(store, requests, max_devices, now).await {
        Ok(answers) => answers,
        Err(failure) => requests.iter().map(|_| Err(failure.to_error())).collect(),
    }
}

/// Devices and cursors that have to be written.
#[derive(Debug, Default)]
struct Writes {
    used: HashSet<(UserId, DeviceId)>,
    kept: BTreeMap<(UserId, DeviceId, Stream), Placing>,
    cursors: BTreeMap<(UserId, DeviceId, Stream), Placing>,
}

async fn opened(
    store: &impl Starts,
    requests: &[Open],
    max_devices: u32,
    now: UnixMillis,
) -> Result<Vec<Result<Opened, InboxError>>, Failure> {
    let mut answers: Vec<Option<Result<Opened, InboxError>>> = requests.iter().map(|_| None).collect();
    let mut writes = Writes::default();
    for _ in 0..max_devices.saturating_add(SPARE_ROUNDS) {
        let waiting: Vec<usize> = (0..requests.len()).filter(|place| answers[*place].is_none()).collect();
        if waiting.is_empty() {
            break;
        }
        let asked: Vec<&Open> = waiting.iter().map(|place| &requests[*place]).collect();
        let found = store.find(&asked, now).await?;
        let added = add_devices(store, &asked, &found, max_devices, now).await?;
        for ((place, request), found) in waiting.into_iter().zip(asked).zip(found) {
            answers[place] = settle(request, &found, max_devices, now, &added, &mut writes);
        }
    }
    let used: Vec<_> = writes.used.into_iter().collect();
    if !used.is_empty() {
        store.touch_devices(&used, now).await?;
    }
    let kept: Vec<_> = writes.kept.into_values().collect();
    if !kept.is_empty() {
        store.keep(&kept, now).await?;
    }
    let cursors: Vec<_> = writes.cursors.into_values().collect();
    if !cursors.is_empty() {
        store.place(&cursors, now).await?;
    }
    let contended = || Failure::unavailable("other devices of the user kept taking the place");
    Ok(answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(contended().to_error()))).collect())
}

/// Takes places for the devices that are new and have room; one a user, as two of one user
/// could wait for each other's places.
async fn add_devices(
    store: &impl Starts,
    asked: &[&Open],
    found: &[Found],
    max_devices: u32,
    now: UnixMillis,
) -> Result<HashSet<(UserId, DeviceId)>, Failure> {
    let mut new: BTreeMap<UserId, DeviceId> = BTreeMap::new();
    for (request, found) in asked.iter().zip(found) {
        if let Some(device) = &request.device
            && found.last_used.is_none()
            && found.others < max_devices
        {
            new.entry(request.user.clone()).or_insert_with(|| device.clone());
        }
    }
    if new.is_empty() {
        return Ok(HashSet::new());
    }
    let new: Vec<_> = new.into_iter().collect();
    let added = store.add_devices(&new, now).await?;
    Ok(added.into_iter().collect())
}

/// The answer, unless the request has to go round again; notes what has to be written.
fn settle(
    request: &Open,
    found: &Found,
    max_devices: u32,
    now: UnixMillis,
    added: &HashSet<(UserId, DeviceId)>,
    writes: &mut Writes,
) -> Option<Result<Opened, InboxError>> {
    let opened = start(request, found);
    let Some(device) = &request.device else {
        return Some(Ok(opened));
    };
    let whose = (request.user.clone(), device.clone());
    match found.last_used {
        Some(at) if now.since(at) >= USED_EVERY => {
            writes.used.insert(whose);
        }
        Some(_) => {}
        None if added.contains(&whose) => {}
        None if found.others >= max_devices => {
            return Some(Err(InboxError::DevicesFull { limit: max_devices }));
        }
        None => return None,
    }
    let key = (request.user.clone(), device.clone(), request.stream.clone());
    if let Some(placing) = placing(request, device, found, &opened) {
        let lowest = writes.cursors.entry(key).or_insert_with(|| placing.clone());
        // Two requests for one cursor: the lower start loses nothing for either.
        if placing.start < lowest.start {
            *lowest = placing;
        }
    } else if let Some(placing) = keeping(request, device, found, now) {
        writes.kept.insert(key, placing);
    }
    Some(Ok(opened))
}

/// Rules 1 to 5.
fn start(request: &Open, found: &Found) -> Opened {
    let is_own = matches!(&request.stream, Stream::User(user) if *user == request.user);
    let believed = match (request.resume, found.cursor) {
        (Some(resume), _) => Some((resume.epoch, resume.seq)),
        (None, Some((epoch, acked))) => Some((Some(epoch), acked)),
        (None, None) => None,
    };
    let (position, gap_from) = match believed {
        Some((epoch, seq)) => {
            let fits = epoch.is_none_or(|epoch| epoch == found.epoch) && seq <= found.head;
            if fits && seq >= found.floor { (seq, None) } else { (found.floor, Some(seq)) }
        }
        None if is_own && request.device.is_some() && found.others == 0 => (found.floor, None),
        None if is_own && request.device.is_some() => {
            let before = |lowest: Seq| Seq(lowest.0.saturating_sub(1));
            (found.lowest.map_or(found.head, before), None)
        }
        None => (found.head, None),
    };
    let cursor = match (request.resume, found.cursor) {
        (Some(_), Some((epoch, acked))) if epoch == found.epoch => acked.min(position),
        _ => position,
    };
    Opened {
        epoch: found.epoch,
        head: found.head,
        floor: found.floor,
        position,
        cursor,
        gap_from,
        unread: found.unread,
        version: if is_own { found.version_base + found.head.0 + found.reads } else { 0 },
        reads: if is_own { found.reads } else { 0 },
    }
}

/// The cursor to write, if there is none, if the one there means nothing any more, or if its device says that it comes from
/// another life of the stream: then what was acknowledged in this one is not what it knows of, and until it acknowledges
/// again it begins where it begins now.
fn placing(request: &Open, device: &DeviceId, found: &Found, opened: &Opened) -> Option<Placing> {
    let is_of_this_life = |epoch: Epoch, seq: Seq| epoch == found.epoch && seq <= found.head;
    let is_stranger = request
        .resume
        .is_some_and(|resume| !is_of_this_life(resume.epoch.unwrap_or(found.epoch), resume.seq));
    let stands = |(epoch, acked): (Epoch, Seq)| {
        is_of_this_life(epoch, acked) && !(is_stranger && acked > opened.position)
    };
    if found.cursor.is_some_and(stands) {
        return None;
    }
    Some(Placing {
        user: request.user.clone(),
        device: device.clone(),
        stream: request.stream.clone(),
        epoch: found.epoch,
        start: opened.position,
        replaces: found.cursor,
    })
}

/// The cursor as it is, if it is of a topic and was not used for some time; or if the user's following was swept with
/// the cursor of another device while this one was written.
fn keeping(request: &Open, device: &DeviceId, found: &Found, now: UnixMillis) -> Option<Placing> {
    let is_stale = found.cursor_used.is_some_and(|at| now.since(at) >= CURSOR_USED_EVERY);
    let (epoch, start) = found.cursor?;
    ((is_stale || !found.follows) && matches!(request.stream, Stream::Topic(_))).then(|| Placing {
        user: request.user.clone(),
        device: device.clone(),
        stream: request.stream.clone(),
        epoch,
        start,
        replaces: None,
    })
}
