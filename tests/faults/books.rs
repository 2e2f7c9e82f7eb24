//! The account, shared by devices and publishers, with a way to wait for what it says.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::account::Account;

/// One account for all.
#[derive(Debug)]
pub struct Books {
    account: Mutex<Account>,
    changed: Notify,
}

impl Books {
    /// Of so many devices.
    pub fn new(devices: usize) -> Self {
        Self { account: Mutex::new(Account::new(devices)), changed: Notify::new() }
    }

    /// Looks into the account, or writes into it.
    pub fn with<T>(&self, look: impl FnOnce(&mut Account) -> T) -> T {
        let result = look(&mut self.account.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_waiters();
        result
    }

    /// Waits until the account is as `is_so` wants it; answers when it was, `None` at the deadline.
    pub async fn wait_for(&self, deadline: Duration, is_so: impl Fn(&Account) -> bool) -> Option<Instant> {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if is_so(&self.account.lock().unwrap_or_else(PoisonError::into_inner)) {
                    return Instant::now();
                }
                changed.await;
            }
        };
        tokio::time::timeout(deadline, waiting).await.ok()
    }
}
