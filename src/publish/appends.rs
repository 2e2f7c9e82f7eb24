//! Whether appends get through: told to whoever watches the inbox.
//!
//! Owns the count of what failed in a row. It must never decide what follows from it.

use tokio::sync::watch;
use tokio::time::Instant;

use crate::inbox::{Appended, InboxError};

/// How the appends of this node have gone lately.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Appends {
    /// Groups in a row of which nothing was answered, as the store was away or too slow.
    pub failed: u64,
    /// When the first of these failed.
    pub since: Option<Instant>,
}

impl Appends {
    /// Notes what became of a group. What was refused for what it is says nothing about the store.
    pub(super) fn note(noted: &watch::Sender<Self>, group: &[Result<Appended, InboxError>]) {
        let is_away = |answer: &Result<_, _>| {
            matches!(answer, Err(InboxError::Unavailable(_) | InboxError::Timeout(_)))
        };
        if group.iter().any(Result::is_ok) {
            noted.send_if_modified(|now| std::mem::take(now) != Self::default());
        } else if group.iter().any(is_away) {
            noted.send_modify(|now| {
                now.failed = now.failed.saturating_add(1);
                now.since.get_or_insert_with(Instant::now);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_in_a_row_is_counted_until_something_is_stored() {
        let (noted, appends) = watch::channel(Appends::default());
        let note = |group: &[Result<Appended, InboxError>]| {
            Appends::note(&noted, group);
            appends.borrow().failed
        };
        let away = || Err(InboxError::Unavailable("gone".into()));
        let slow = || Err(InboxError::Timeout(std::time::Duration::from_secs(5)));
        let refused = || Err(InboxError::Refused("bad".into()));
        assert_eq!(note(&[away()]), 1);
        let since = appends.borrow().since;
        assert_eq!(note(&[slow(), refused()]), 2);
        assert_eq!((note(&[refused()]), appends.borrow().since), (2, since));
        assert!(since.is_some());
        assert_eq!(note(&[away(), Ok(Appended::KeyReused)]), 0, "the store works");
        assert_eq!(*appends.borrow(), Appends::default());
    }
}
