//! The model of the inbox: schedules, and the upkeep and outbox that the simulation does without.

use std::time::Duration;

use async_trait::async_trait;
use fanfare::domain::revocation::{Revocation, Revoked};
use fanfare::domain::{DeviceId, NotificationId, Stream, UnixMillis, UserId};
use fanfare::inbox::{
    CursorKey, DueSchedule, Erased, FirstAnswer, InboxError, OutOfDate, Outbox, OutboxEvent, PresenceChange,
    RevocationStore, Schedule, Scheduled, Schedules, StoredRevocations, Unused, Upkeep,
};

use super::ledger::{Later, Ledger};
use super::store::{ModelInbox, Store};

impl Store {
    fn keep_for_later(&self, ledger: &mut Ledger, schedule: Schedule) -> Scheduled {
        if let Some(own) = &schedule.idempotency {
            let key = format!("{}/{}", own.publisher, own.key);
            let first = FirstAnswer { id: schedule.id, answered: false, online: None };
            let known = ledger.life().keys.entry(key).or_insert((own.request_hash, first)).clone();
            if known.1.id != schedule.id {
                let same = known.0 == own.request_hash;
                return if same { Scheduled::Replayed(known.1) } else { Scheduled::KeyReused };
            }
        }
        self.stage.say(format_args!("inbox: {} is kept until {}", schedule.id, schedule.fire_at));
        let later = Later {
            fire_at: schedule.fire_at,
            publisher: schedule.publisher,
            request: schedule.request,
            claimed_until: UnixMillis(0),
        };
        ledger.life().schedules.insert(schedule.id, later);
        Scheduled::Kept
    }

    /// Now and then somebody else's claim is passed over: then two nodes fire the same one at once.
    fn claim(&self, ledger: &mut Ledger, now: UnixMillis, lease: Duration, limit: u32) -> Vec<DueSchedule> {
        let careless = self.stage.chance(30);
        let due = |later: &Later| later.fire_at <= now && (careless || later.claimed_until <= now);
        let schedules = ledger.life().schedules.iter_mut().filter(|(_, later)| due(later));
        let claim = |(id, later): (&NotificationId, &mut Later)| {
            later.claimed_until = now.after(lease);
            let (fire_at, publisher, request) =
                (later.fire_at, later.publisher.clone(), later.request.clone());
            DueSchedule { id: *id, fire_at, publisher, request }
        };
        schedules.take(limit as usize).map(claim).collect()
    }
}

#[async_trait]
impl Schedules for ModelInbox {
    async fn schedule(&self, schedule: Schedule) -> Result<Scheduled, InboxError> {
        self.call(move |store, ledger, _| store.keep_for_later(ledger, schedule)).await
    }

    async fn claim_schedules(
        &self,
        now: UnixMillis,
        lease: Duration,
        limit: u32,
    ) -> Result<Vec<DueSchedule>, InboxError> {
        self.call(move |store, ledger, _| store.claim(ledger, now, lease, limit)).await
    }

    async fn drop_schedule(&self, id: NotificationId) -> Result<(), InboxError> {
        self.call(move |_, ledger, _| drop(ledger.life().schedules.remove(&id))).await
    }
}

#[async_trait]
impl Upkeep for ModelInbox {
    async fn check(&self) -> Result<(), InboxError> {
        self.call(|_, _, _| ()).await
    }

    async fn seen(&self, _: Vec<(UserId, UnixMillis)>) -> Result<(), InboxError> {
        self.call(|_, _, _| ()).await
    }

    async fn last_seen(&self, users: &[UserId]) -> Result<Vec<Option<UnixMillis>>, InboxError> {
        Ok(vec![None; users.len()])
    }

    async fn sweep(&self, _: &OutOfDate, _: u32) -> Result<u64, InboxError> {
        Ok(0)
    }

    async fn expire(&self, _: UnixMillis, _: u32) -> Result<u64, InboxError> {
        Ok(0)
    }

    async fn retain_by_age(&self, _: UnixMillis, _: u32) -> Result<u64, InboxError> {
        Ok(0)
    }

    async fn retain_by_count(&self, _: &[Stream], _: u64) -> Result<u64, InboxError> {
        Ok(0)
    }

    async fn overfull(&self, _: u64, _: u32) -> Result<Vec<Stream>, InboxError> {
        Ok(Vec::new())
    }

    async fn look_for_undelivered(&self, _: UnixMillis, _: u32) -> Result<u64, InboxError> {
        Ok(0)
    }

    async fn remove_device(&self, _: &UserId, _: &DeviceId) -> Result<bool, InboxError> {
        unimplemented!("no device is removed here")
    }

    async fn used(&self, devices: &[(UserId, DeviceId)], now: UnixMillis) -> Result<(), InboxError> {
        let devices = devices.to_vec();
        self.call(move |_, ledger, _| {
            ledger.used.extend(devices.iter().map(|(user, device)| (format!("{user}/{device}"), now)));
        })
        .await
    }

    async fn used_cursors(&self, cursors: &[CursorKey], now: UnixMillis) -> Result<(), InboxError> {
        let cursors = cursors.to_vec();
        self.call(move |_, ledger, _| {
            let named = |(user, device, stream): &CursorKey| (format!("{user}/{device}/{stream}"), now);
            ledger.used.extend(cursors.iter().map(named));
        })
        .await
    }

    async fn remove_unused_cursors(
        &self,
        _: Option<&CursorKey>,
        _: UnixMillis,
        _: u32,
    ) -> Result<Unused, InboxError> {
        unimplemented!("no cursor is old here")
    }

    async fn erase(&self, _: &UserId) -> Result<Erased, InboxError> {
        unimplemented!("nobody is erased here")
    }

    async fn close(&self) {}
}

#[async_trait]
impl RevocationStore for ModelInbox {
    async fn revoke(&self, _: &Revocation, _: u32) -> Result<Option<Revocation>, InboxError> {
        unimplemented!("nothing is revoked here")
    }

    async fn lift(&self, _: &Revoked) -> Result<bool, InboxError> {
        unimplemented!("nothing is revoked here")
    }

    async fn revocations_version(&self) -> Result<u64, InboxError> {
        Ok(0)
    }

    async fn revocations(&self, _: UnixMillis) -> Result<StoredRevocations, InboxError> {
        Ok(StoredRevocations { version: 0, all: Vec::new() })
    }
}

#[async_trait]
impl Outbox for ModelInbox {
    async fn claim_events(&self, _: UnixMillis, _: Duration, _: u32) -> Result<Vec<OutboxEvent>, InboxError> {
        Ok(Vec::new())
    }

    async fn told(&self, _: &[String]) -> Result<(), InboxError> {
        Ok(())
    }

    async fn waiting(&self) -> Result<(u64, Option<UnixMillis>), InboxError> {
        Ok((0, None))
    }

    async fn presence_changed(&self, changes: &[PresenceChange]) -> Result<Vec<bool>, InboxError> {
        Ok(vec![false; changes.len()])
    }

    async fn online_users(&self, _: Option<&UserId>, _: u32) -> Result<Vec<UserId>, InboxError> {
        Ok(Vec::new())
    }
}
