//! The revocations in force, as this node knows them: looked up with every token, in memory.
//!
//! Owns the register and what happens to it while a whole list is being read from the store: what arrives meanwhile
//! stays. It never reads the store itself, and holds on to what it has until it is given something else.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::domain::UnixMillis;
use crate::domain::revocation::{Revocation, Revoked};
use crate::metrics::auth::AuthMetrics;

/// What tokens are looked up in. Share it by `Arc`.
#[derive(Debug, Default)]
pub struct Revocations {
    register: RwLock<Register>,
    metrics: AuthMetrics,
}

#[derive(Debug, Default)]
struct Register {
    tokens: HashSet<String>,
    /// By `sub`: those issued before.
    users: HashMap<String, UnixMillis>,
    /// Everybody's that were issued before.
    everyone: Option<UnixMillis>,
    /// What has arrived since a read of all began.
    arrived: Vec<(Revoked, UnixMillis)>,
}

impl Revocations {
    /// None yet.
    pub fn new(metrics: AuthMetrics) -> Self {
        Self { register: RwLock::default(), metrics }
    }

    /// One more is in force, from now on. Twice is once; of two about the same the one that revokes more counts.
    pub fn add(&self, of: &Revoked, issued_before: UnixMillis) {
        let mut register = self.write();
        register.add(of, issued_before);
        register.arrived.push((of.clone(), issued_before));
        self.metrics.revocations.set(register.count());
    }

    /// A read of all that are stored begins; [`replace`](Self::replace) ends it. One at a time.
    pub fn begin_read(&self) {
        self.write().arrived.clear();
    }

    /// These are all that were stored when they were read; what has arrived since the read began is kept, too.
    pub fn replace(&self, all: &[Revocation]) {
        let mut read = Register::default();
        all.iter().for_each(|one| read.add(&one.of, one.issued_before));
        let mut register = self.write();
        let arrived = std::mem::take(&mut register.arrived);
        arrived.iter().for_each(|(of, issued_before)| read.add(of, *issued_before));
        self.metrics.revocations.set(read.count());
        *register = read;
    }

    /// Whether such a token is revoked.
    pub(super) fn cover(&self, subject: &str, issued_at: Option<UnixMillis>, token_id: Option<&str>) -> bool {
        let register = self.read();
        let is_before = |before: UnixMillis| issued_at.is_none_or(|issued_at| issued_at < before);
        token_id.is_some_and(|id| register.tokens.contains(id))
            || register.users.get(subject).copied().is_some_and(is_before)
            || register.everyone.is_some_and(is_before)
    }

    /// A token was refused by it.
    pub(super) fn count_refusal(&self) {
        self.metrics.revoked.inc();
    }

    // No section under this lock can panic half-way through a change, so a poisoned one is still whole.
    fn read(&self) -> RwLockReadGuard<'_, Register> {
        self.register.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Register> {
        self.register.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Register {
    fn add(&mut self, of: &Revoked, issued_before: UnixMillis) {
        match of {
            Revoked::Token(id) => {
                self.tokens.insert(id.as_str().to_owned());
            }
            Revoked::User(user) => {
                let before = self.users.entry(user.to_string()).or_insert(issued_before);
                *before = issued_before.max(*before);
            }
            Revoked::Everyone => self.everyone = self.everyone.max(Some(issued_before)),
        }
    }

    fn count(&self) -> i64 {
        let count = self.tokens.len() + self.users.len() + usize::from(self.everyone.is_some());
        i64::try_from(count).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::UserId;
    use crate::domain::revocation::{ALWAYS, TokenId};

    fn alice() -> Revoked {
        Revoked::User(UserId::new("alice").expect("an id"))
    }

    fn of(of: Revoked, issued_before: UnixMillis) -> Revocation {
        Revocation { of, issued_before, created_at: UnixMillis(0), lapses_at: ALWAYS }
    }

    #[test]
    fn tokens_are_covered_by_their_id_by_their_user_and_by_when_they_were_issued() {
        let revocations = Revocations::default();
        let at = |at| Some(UnixMillis(at));
        assert!(!revocations.cover("alice", None, None), "nothing is revoked");
        revocations.add(&Revoked::Token(TokenId::new("t1").expect("an id")), ALWAYS);
        assert!(revocations.cover("bob", at(9), Some("t1")) && !revocations.cover("bob", at(9), Some("t2")));

        revocations.add(&alice(), UnixMillis(5));
        assert!(revocations.cover("alice", at(4), None) && !revocations.cover("alice", at(5), None));
        assert!(revocations.cover("alice", None, None), "it does not say when it was issued");
        assert!(!revocations.cover("bob", at(4), None) && !revocations.cover("bob", None, None));
        revocations.add(&alice(), UnixMillis(3));
        assert!(revocations.cover("alice", at(4), None), "less does not take back more");
        revocations.add(&alice(), ALWAYS);
        assert!(revocations.cover("alice", at(u64::MAX >> 2), None));

        revocations.add(&Revoked::Everyone, UnixMillis(2));
        assert!(revocations.cover("bob", at(1), None) && !revocations.cover("bob", at(2), None));
        assert_eq!(revocations.metrics.revocations.get(), 3);
    }

    #[test]
    fn what_arrives_while_all_are_read_stays_and_what_is_not_stored_any_more_goes() {
        let revocations = Revocations::default();
        let everyone = of(Revoked::Everyone, UnixMillis(7));
        revocations.add(&Revoked::Everyone, UnixMillis(7));
        revocations.begin_read();
        revocations.add(&alice(), ALWAYS);
        revocations.replace(&[everyone]);
        assert!(revocations.cover("alice", Some(UnixMillis(9)), None));
        assert!(revocations.cover("bob", Some(UnixMillis(6)), None));
        revocations.begin_read();
        revocations.replace(&[]);
        assert!(!revocations.cover("alice", None, None), "it was lifted");
        assert_eq!(revocations.metrics.revocations.get(), 0);
    }
}
